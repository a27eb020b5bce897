"""The clients: right answers, what is tried again, what is refused, and how many bytes it takes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from bundle_fixtures import make_bundle
from edge_fixtures import Cloud, counting_server
from splitveil_edge.client import AsyncEdgeClient, EdgeClient
from splitveil_edge.edge import Edge
from splitveil_edge.errors import (
    BudgetError,
    InputError,
    ServerError,
    TrustError,
    UnavailableError,
    UsageError,
)
from splitveil_edge.ledger import Budget, Ledger
from splitveil_edge.noise import KeyedNoise
from splitveil_edge.protocol import LENGTH_HEADER
from splitveil_edge.retrying import Retries
from splitveil_edge.transport import Security, client_options

HERE = "http://127.0.0.1:8000"
QUICK = Retries(attempts=4, first_s=0.0, longest_s=0.0)
X = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
KEYED = KeyedNoise(bytes(32))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("client") / "bundle", finish=True)


def client_of(bundle: Path, cloud: Any, **options: Any) -> EdgeClient:
    given = {"retries": QUICK, "transport": httpx.MockTransport(cloud), **options}
    return EdgeClient(bundle, HERE, **given)


def expected_outputs(bundle: Path, cloud: Cloud) -> np.ndarray:
    """What the graphs say in process, under the same keyed noise."""
    edge = Edge(bundle, noise=KEYED)
    return edge.finish(cloud.graph.reply(edge.release(X)))


def test_predictions_are_those_of_the_graphs(bundle: Path) -> None:
    cloud = Cloud(bundle)
    with client_of(bundle, cloud, noise=KEYED, batch_rows=2) as client:
        np.testing.assert_allclose(client.predict(X), expected_outputs(bundle, cloud), atol=1e-5)
    assert [request.method for request in cloud.requests] == ["GET", "POST", "POST"]  # the passport is read once
    assert cloud.requests[1].url.path == "/v2/models/digits/infer"


def test_the_async_client_does_the_same(bundle: Path) -> None:
    cloud = Cloud(bundle, (503, httpx.ConnectError("gone")))

    async def ask() -> np.ndarray:
        options: dict[str, Any] = {"retries": QUICK, "transport": httpx.MockTransport(cloud), "noise": KEYED}
        async with AsyncEdgeClient(bundle, HERE, **options) as client:
            return await client.predict(X)

    np.testing.assert_allclose(anyio.run(ask), expected_outputs(bundle, cloud), atol=1e-5)
    assert [request.method for request in cloud.requests] == ["GET", "POST"] * 3


def test_without_tls_no_proxy_of_the_environment_is_asked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting_server(Cloud(bundle)) as (proxy, seen), counting_server(Cloud(bundle)) as (server, received):
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with EdgeClient(bundle, server, token="t" * 43, retries=QUICK) as client:
            assert client.predict(X).shape == (3, 10)
    assert len(received) == 2
    assert seen == []


def test_with_tls_a_proxy_of_the_environment_is_asked(bundle: Path) -> None:
    options = [client_options(server, Security(), 1.0, None)["trust_env"] for server in (HERE, "https://tail.example")]
    assert options == [False, True]


def test_a_release_names_its_passport(bundle: Path) -> None:
    cloud = Cloud(bundle)
    with client_of(bundle, cloud) as client:
        client.predict(X)
    head = json.loads(cloud.posted[0][: int(cloud.requests[-1].headers[LENGTH_HEADER])])
    assert head["parameters"]["passport"] == cloud.passport.digest[:16]


def test_a_server_that_holds_another_bundle_by_now_is_no_longer_trusted(bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path, finish=True, created="2025-03-01T00:00:00Z")
    cloud, restarted = Cloud(bundle), Cloud(other, (400,) * 9)  # what refuses the passport that a release names
    turns = [cloud, cloud, restarted, restarted, restarted]

    def answer(request: httpx.Request) -> httpx.Response:
        return turns.pop(0)(request)

    with client_of(bundle, answer) as client:
        client.predict(X)
        with pytest.raises(TrustError, match="it differs in created"):
            client.predict(X)
        with pytest.raises(TrustError, match="it differs in created"):
            client.predict(X)
    assert len(restarted.posted) == 1


def test_the_async_client_ends_an_attempt_whose_headers_drip(bundle: Path) -> None:
    with dripping_server() as server:

        async def ask() -> None:
            async with AsyncEdgeClient(bundle, server, timeout_s=0.3, retries=Retries(attempts=1)) as client:
                with anyio.fail_after(5), pytest.raises(UnavailableError, match="took too long"):
                    await client.meet()

        anyio.run(ask)


@contextmanager
def dripping_server() -> Iterator[str]:
    """Sends a header that never ends, byte by byte."""
    listener, end = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not end.wait(0.02):
                connection.sendall(b"x")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        end.set()
        thread.join(10)
        listener.close()


def test_quantised_releases_travel_packed(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True, bits=8)
    cloud = Cloud(folder)
    with client_of(folder, cloud) as client:
        assert client.predict(X).shape == (3, 10)
    (body,) = cloud.posted
    assert body.endswith(b"}}") is False
    head = json.loads(body[: int(cloud.requests[-1].headers[LENGTH_HEADER])])
    assert head["inputs"][0]["datatype"] == "UINT8"
    assert head["inputs"][0]["shape"] == [3, 256]


@pytest.mark.parametrize("item", [429, 502, 503, 504, httpx.ConnectError("no"), httpx.ReadTimeout("late")])
def test_what_passes_is_tried_again_with_the_same_release(bundle: Path, item: int | Exception) -> None:
    cloud = Cloud(bundle, (item, item))
    with client_of(bundle, cloud) as client:
        assert client.predict(X).shape == (3, 10)
    assert len(cloud.posted) == 3
    assert len(set(cloud.posted)) == 1  # fresh noise would be one more observation for the server
    # whoever answers after a failure shows its passport first
    assert [request.method for request in cloud.requests] == ["GET", "POST"] * 3


def test_attempts_come_to_an_end(bundle: Path) -> None:
    cloud = Cloud(bundle, (503,) * 10)
    with (
        client_of(bundle, cloud) as client,
        pytest.raises(UnavailableError, match="within 4 attempts, got status 503: busy"),
    ):
        client.predict(X)
    assert len(cloud.posted) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 302])
def test_what_does_not_pass_is_not_tried_again(bundle: Path, status: int) -> None:
    cloud = Cloud(bundle, (status,))
    with client_of(bundle, cloud) as client, pytest.raises(ServerError, match=f"status {status}: busy") as caught:
        client.predict(X)
    assert caught.value.status == status
    assert len(cloud.posted) == 1


def test_waits_grow_and_heed_the_server() -> None:
    retries = Retries(attempts=6, first_s=1.0, longest_s=5.0)
    for _ in range(50):
        waits = list(retries.waits())
        assert all(0 <= wait <= limit for wait, limit in zip(waits, [1, 2, 4, 5, 5], strict=True))
    assert retries.asked(0.1, "3") == 3.0
    assert retries.asked(0.1, "3600") == 5.0
    assert retries.asked(0.1, "Wed, 21 Oct 2026 07:28:00 GMT") == 0.1
    assert list(Retries(attempts=2000, first_s=0, longest_s=0).waits()) == [0.0] * 1999
    assert max(Retries(attempts=2000, first_s=0.1, longest_s=1).waits()) <= 1.0
    with pytest.raises(UsageError):
        Retries(attempts=0)


def test_a_server_of_another_bundle_gets_nothing(bundle: Path, tmp_path: Path) -> None:
    cloud = Cloud(make_bundle(tmp_path, finish=True, created="2025-03-01T00:00:00Z"))
    with (
        client_of(bundle, cloud) as client,
        pytest.raises(TrustError, match=r"\(it differs in created\): nothing was sent"),
    ):
        client.predict(X)
    assert cloud.posted == []


@pytest.mark.parametrize(
    ("body", "error", "reason"),
    [
        (b"{}", TrustError, "one without"),
        (b'{"passport": {"sha256": 3, "body": null}}', TrustError, "one without"),
        (b"<html>", ServerError, "check the address"),
        (b"[]", ServerError, "check the address"),
        (b'{"passport": {}}', ServerError, "check the address"),
        (b'{"passport": {"sha256": "\\u001b[2J", "body": null}}', TrustError, r"of this bundle, got \[2J…: nothing"),
        (b"[" * 100_000, ServerError, "check the address"),
    ],
)
def test_metadata_that_is_none(bundle: Path, body: bytes, error: type[Exception], reason: str) -> None:
    answer = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with client_of(bundle, None, transport=answer) as client, pytest.raises(error, match=reason):
        client.meet()


@pytest.mark.parametrize(
    ("content", "headers", "reason"),
    [
        (b"", {}, "an answer of the Open Inference Protocol"),
        (b"{}", {}, "an answer of the Open Inference Protocol"),
        (b'{"outputs": []}', {}, "an answer of the Open Inference Protocol"),
        (
            b'{"outputs": [{"name": "reply", "shape": [1], "datatype": "FP32", "data": [1]}]}',
            {},
            "expected a reply of FP32",
        ),
        (b"x" * 500_000, {}, "at most"),
        (b"{}", {LENGTH_HEADER: "-1"}, LENGTH_HEADER),
        (b"{}", {LENGTH_HEADER: "99"}, LENGTH_HEADER),
        (b"{}", {"content-encoding": "gzip"}, "cannot ask"),
        (
            b'{"outputs": [{"name": "reply", "shape": [3, 10], "datatype": "FP32", "data": [1%s]}]}' % (b"0" * 400),
            {},
            "OverflowError",
        ),
        (
            b'{"outputs": [{"name": "reply", "shape": [1], "datatype": "\\u001b[2J", "data": [1]}]}',
            {},
            r"got \[2J \(1,\) with 1 values",
        ),
    ],
)
def test_answers_that_are_none(bundle: Path, content: bytes, headers: dict[str, str], reason: str) -> None:
    cloud = Cloud(bundle)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return cloud(request)
        return httpx.Response(200, stream=httpx.ByteStream(content), headers=headers)

    with client_of(bundle, answer) as client, pytest.raises(ServerError, match=reason):
        client.predict(X)


@pytest.mark.parametrize(
    ("value", "named", "reason"),
    [
        (float("nan"), None, "finite"),
        (1e300, None, "finite"),
        (1.0, "0" * 16, "under 0000000000000000…: the server holds another bundle now"),
        (1.0, "", "another"),
        (1.0, 7, "another"),
        (1.0, "\x1b[2J", r"under \[2J…"),
    ],
)
def test_a_reply_that_is_not_finite_or_under_another_passport(
    bundle: Path, value: float, named: Any, reason: str
) -> None:
    cloud = Cloud(bundle)
    said = {"passport": cloud.passport.digest[:16] if named is None else named}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return cloud(request)
        output = {"name": "reply", "shape": [3, 10], "datatype": "FP32", "data": [value] * 30}
        return httpx.Response(200, content=json.dumps({"parameters": said, "outputs": [output]}))

    with (
        client_of(bundle, answer) as client,
        pytest.raises(ServerError if reason == "finite" else TrustError, match=reason),
    ):
        client.predict(X)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (X[0], r"pass x\[None\]"),
        (X[:0], "n >= 1"),
        (X * 255, "divide bytes by 255"),
        (X - 1, "divide bytes by 255"),
        (np.full_like(X, np.nan), "in \\[0, 1\\]"),
        ((X * 255).astype(np.uint8), "array of floats"),
        (X.tolist(), "got list"),
    ],
)
def test_pictures_that_are_none(bundle: Path, x: Any, reason: str) -> None:
    cloud = Cloud(bundle)
    with client_of(bundle, cloud) as client, pytest.raises(InputError, match=reason):
        client.predict(x)
    assert cloud.requests == []


def test_a_spent_budget_sends_nothing(bundle: Path, tmp_path: Path) -> None:
    cloud, ledger = Cloud(bundle), Ledger(tmp_path / "ledger.sqlite", Budget(releases=2))
    with client_of(bundle, cloud, ledger=ledger) as client:
        client.predict(X)
        client.predict(X)
        with pytest.raises(BudgetError, match="nothing was sent"):
            client.predict(X)
        client.predict(1 - X, about=["Ada", "Ada", "Grace"])
        with pytest.raises(BudgetError):
            client.predict(X / 2, about="Ada")
        with pytest.raises(UsageError, match="one per picture, got 2 for 3"):
            client.predict(X, about=["Ada", "Grace"])
    assert len(cloud.posted) == 3
    assert ledger.total().releases == 9


def test_keyed_releases_are_counted_once(bundle: Path, tmp_path: Path) -> None:
    cloud, ledger = Cloud(bundle), Ledger(tmp_path / "ledger.sqlite", Budget(releases=1))
    with client_of(bundle, cloud, ledger=ledger, noise=KEYED) as client:
        client.predict(X)
        client.predict(X)
    assert len(set(cloud.posted)) == 1
    assert ledger.total().releases == 3


def test_another_secret_makes_another_release(bundle: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", Budget(releases=1))
    for _ in range(2):
        Edge(bundle, noise=KEYED, ledger=ledger).release(X)
    with pytest.raises(BudgetError):
        Edge(bundle, noise=KeyedNoise(bytes([1]) * 32), ledger=ledger).release(X)
    assert ledger.total().releases == 3


def test_fresh_noise_differs_from_release_to_release(bundle: Path) -> None:
    edge = Edge(bundle)
    first, second = edge.release(X), edge.release(X)
    assert float((first == second).mean()) < 0.01
    assert 0.05 < float((first - second).std()) / np.sqrt(2) < 0.2  # noise_std of the bundle is 0.1


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("tail.example", "https://host:port"),
        ("ftp://tail.example", "https://host:port"),
        ("https://user:word@tail.example", "https://host:port"),
        ("https://tail.example/?a=b", "https://host:port"),
        ("http://tail.example", "expected https for 'tail.example'"),
        ("http://127.0.0.1.example", "expected https"),
    ],
)
def test_addresses_that_cannot_be_meant(bundle: Path, server: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        EdgeClient(bundle, server)


def test_addresses_that_can(bundle: Path) -> None:
    for server in ("http://localhost:8000", "http://[::1]:8000", "https://tail.example/prefix/"):
        with EdgeClient(bundle, server) as client:
            assert client.server == server.rstrip("/")
    with EdgeClient(bundle, "http://tail:8000", plain=["tail"]) as client:
        assert client.server == "http://tail:8000"


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve"])
def test_tokens_that_cannot_stand_in_a_header(bundle: Path, token: str) -> None:
    with pytest.raises(UsageError, match="token"):
        EdgeClient(bundle, HERE, token=token)


@pytest.mark.parametrize(("bits", "tensor"), [(None, 1024), (8, 256)])
def test_few_bytes_go_over_the_wire_beyond_the_tensor(tmp_path: Path, bits: int | None, tensor: int) -> None:
    folder = make_bundle(tmp_path, finish=True, bits=bits)
    with counting_server(Cloud(folder)) as (server, received), EdgeClient(folder, server, token="t" * 43) as client:
        for _ in range(2):
            assert client.predict(X[:1]).shape == (1, 10)
    overhead = [len(raw) - tensor for raw in received[1:]]  # after the metadata, headers and token included
    assert len(overhead) == 2
    assert max(overhead) <= 380
    assert b"Bearer " + b"t" * 43 in received[1]


def test_large_tensors_cost_little(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True)
    with counting_server(Cloud(folder)) as (server, received), EdgeClient(folder, server, token="t" * 43) as client:
        client.predict(np.repeat(X[:1], 16, axis=0))
    assert len(received[1]) < 1.05 * 16 * 1024
