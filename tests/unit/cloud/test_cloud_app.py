"""The application, case by case, without a socket: each route, each refusal, and what it leaves in metrics and logs."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import logging
import subprocess
import sys
import threading
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cloud_fixtures import (
    INFER,
    SMALL,
    Limits,
    ask,
    binary_request,
    cloud_bundle,
    json_request,
    releases,
    reply_of,
    talk,
    tensor,
)
from fastapi import FastAPI

from bundle_fixtures import make_bundle
from splitveil.cloud import protocol
from splitveil.cloud.app import create_app, service_of
from splitveil.cloud.logs import LOGGER, JsonLines
from splitveil.cloud.protocol import InferRequest
from splitveil.cloud.settings import ServeSettings
from splitveil.export.graph import run_onnx
from splitveil_edge.client import AsyncEdgeClient
from splitveil_edge.errors import TrustError
from splitveil_edge.passport import CLOUD, read_passport
from splitveil_edge.signing import make_key
from splitveil_edge.wire import wire_codec

R = releases(3)
TOKEN = "a-token-of-some-length"
PATHS = {
    "/v2": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/v2/models/digits": "GET",
    "/v2/models/digits/ready": "GET",
    "/v2/models/digits/infer": "POST",
    "/v2/models/digits/versions/1": "GET",
    "/v2/models/digits/versions/1/ready": "GET",
    "/v2/models/digits/versions/1/infer": "POST",
    "/metrics": "GET",
}


def changed(settings: ServeSettings = SMALL, **changes: Any) -> ServeSettings:
    """Settings with other values."""
    fields = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    return ServeSettings(**{**fields, **changes})


def refused(answer: httpx.Response, status: int) -> str:
    """The reason of an answer that must be a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    return str(body["error"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_each_path_takes_its_method_alone(app: FastAPI, path: str, method: str) -> None:
    right = PATHS[path]
    options = {"json": json_request(R)} if method == "POST" else {}
    answer = ask(app, method, path, **options)
    if method == right:
        assert answer.status_code == 200
    else:
        assert "another method" in refused(answer, 405)
        assert answer.headers["allow"] == right


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2/",
        "/v3",
        "/v2/models",
        "/v2/models/other",
        "/v2/models/other/ready",
        "/v2/models/digits/versions/2",
        "/v2/models/digits/versions/2/ready",
        "/v2/models/digits/config",
        "/docs",
        "/v2/models/..%2f..%2fetc",
    ],
)
def test_what_is_not_there_is_404(app: FastAPI, path: str) -> None:
    assert refused(ask(app, "GET", path), 404)


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/digits/versions/2/infer"])
def test_another_model_or_version_infers_nothing(app: FastAPI, path: str) -> None:
    assert refused(ask(app, "POST", path, json=json_request(R)), 404)


def test_metadata_carries_the_passport(tmp_path: Path) -> None:
    private, public = make_key()
    bundle = cloud_bundle(tmp_path / "bundle", key=private)
    data = ask(create_app(bundle, changed(public_key=public)), "GET", "/v2/models/digits").json()
    assert data["inputs"] == [{"name": "r", "datatype": "FP32", "shape": [-1, 4, 8, 8]}]
    assert data["outputs"] == [{"name": "reply", "datatype": "FP32", "shape": [-1, 10]}]
    assert (data["name"], data["versions"], data["platform"]) == ("digits", ["1"], "onnx_onnxv1")
    body = (bundle / "passport.json").read_bytes()
    assert data["passport"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert data["passport"]["body"] == json.loads(body)
    assert data["passport"]["signature"] == json.loads((bundle / "passport.sig").read_bytes())
    with pytest.raises(TrustError):
        create_app(bundle, changed(public_key=make_key()[1]))


def test_all_forms_of_a_request_get_the_replies_of_the_graph(app: FastAPI, bundle: Path) -> None:
    expected = run_onnx(bundle / CLOUD, {"r": R})["reply"]
    body, headers = binary_request(R, parameters={"binary_data_output": True})
    forms: list[dict[str, Any]] = [
        {"json": json_request(R)},
        {"json": {"inputs": [tensor(R, data=R.tolist())]}},
        {"json": json_request(R, parameters={"binary_data_output": True})},
        {"json": json_request(R, outputs=[{"name": "reply", "parameters": {"binary_data": True}}])},
        {"content": body, "headers": headers},
        {"content": gzip.compress(body), "headers": {**headers, "Content-Encoding": "gzip"}},
        {"content": zlib.compress(body), "headers": {**headers, "Content-Encoding": "deflate"}},
    ]
    for form in forms:
        np.testing.assert_allclose(reply_of(ask(app, "POST", INFER, **form)), expected, atol=1e-5)


def test_id_and_version_are_echoed(app: FastAPI) -> None:
    answer = ask(app, "POST", "/v2/models/digits/versions/1/infer", json=json_request(R, id="n\u00ba 7")).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("n\u00ba 7", "digits", "1")
    assert set(ask(app, "POST", INFER, json=json_request(R)).json()) == {"model_name", "outputs"}


def test_zero_rows_get_zero_replies(app: FastAPI) -> None:
    assert reply_of(ask(app, "POST", INFER, json=json_request(R[:0]))).shape == (0, 10)


def test_more_rows_than_a_batch_are_answered_in_order(app: FastAPI, bundle: Path) -> None:
    r = releases(21, seed=1)
    body, headers = binary_request(r)
    expected = run_onnx(bundle / CLOUD, {"r": r})["reply"]
    np.testing.assert_allclose(reply_of(ask(app, "POST", INFER, content=body, headers=headers)), expected, atol=1e-5)


def test_requests_at_the_same_time_get_their_own_replies(app: FastAPI, bundle: Path) -> None:
    asked = [releases(1 + i % 3, seed=i) for i in range(24)]

    async def speak(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post(INFER, json=json_request(r)) for r in asked))

    for r, answer in zip(asked, talk(app, speak), strict=True):
        np.testing.assert_allclose(reply_of(answer), run_onnx(bundle / CLOUD, {"r": r})["reply"], atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 5.01, -4.01, 3e38])
def test_features_that_are_no_release_are_refused(app: FastAPI, value: float) -> None:
    r = R.copy()
    r[1, 2, 3, 4] = value
    body, headers = binary_request(r)
    reason = refused(ask(app, "POST", INFER, content=body, headers=headers), 400)
    assert ("from -4 to 5" in reason) if abs(value) < 10 or value == np.float32(3e38) else ("finite" in reason)


def test_the_ends_of_the_range_pass(tmp_path: Path) -> None:
    app = create_app(cloud_bundle(tmp_path / "b", release_range={"low": -0.1, "high": 0.1}), SMALL)
    r = np.full((1, 4, 8, 8), 0.1, np.float32)  # the nearest float32 lies above 0.1
    assert ask(app, "POST", INFER, json=json_request(-r)).status_code == 200
    body, headers = binary_request(r)
    assert ask(app, "POST", INFER, content=body, headers=headers).status_code == 200


def test_without_a_declared_range_all_finite_features_pass(tmp_path: Path) -> None:
    app = create_app(cloud_bundle(tmp_path / "b", release_range=None), SMALL)
    assert ask(app, "POST", INFER, json=json_request(R * 1e6)).status_code == 200
    assert "finite" in refused(ask(app, "POST", INFER, json={"inputs": [tensor(R, data=[1e39] * R.size)]}), 400)


def test_a_quantised_release_travels_as_bytes(tmp_path: Path) -> None:
    codec = {"name": "quantise", "bits": 8, "low": -0.5, "high": 1.5}
    bundle = cloud_bundle(tmp_path / "bundle", codec=codec)  # the graph behind it is the same
    app = create_app(bundle, SMALL)
    wire = wire_codec(read_passport(bundle))
    sent = wire.encode(R)
    body, headers = binary_request(sent)
    expected = run_onnx(bundle / CLOUD, {"r": wire.decode(sent)})["reply"]
    np.testing.assert_allclose(reply_of(ask(app, "POST", INFER, content=body, headers=headers)), expected, atol=1e-5)
    np.testing.assert_allclose(reply_of(ask(app, "POST", INFER, json=json_request(sent))), expected, atol=1e-5)
    assert "UINT8" in refused(ask(app, "POST", INFER, json=json_request(R)), 400)


def test_an_edge_that_names_another_passport_is_refused(app: FastAPI) -> None:
    digest = service_of(app).passport.digest
    for claimed in (digest, digest[:16]):
        answer = ask(app, "POST", INFER, json=json_request(R, parameters={"passport": claimed}))
        assert answer.json()["parameters"] == {"passport": claimed}
    for claimed in ("0" * 64, digest[:8], "", 7):
        said = refused(ask(app, "POST", INFER, json=json_request(R, parameters={"passport": claimed})), 400)
        assert "both sides of one bundle" in said


def test_bodies_beyond_the_limit_are_413(bundle: Path) -> None:
    app = create_app(bundle, changed(limits=Limits(max_body_bytes=20_000)))
    assert "20000 bytes" in refused(ask(app, "POST", INFER, content=b"x" * 20_001), 413)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 1000

    assert "20000 bytes" in refused(ask(app, "POST", INFER, content=pieces()), 413)
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < 20_000
    assert "inflates" in refused(ask(app, "POST", INFER, content=bomb, headers={"Content-Encoding": "gzip"}), 413)
    assert refused(ask(app, "POST", INFER, content=b"x", headers={"Content-Encoding": "br"}), 415)


def test_a_small_body_of_many_lists_is_refused_before_it_is_decoded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(bundle, changed(limits=Limits(max_inflated_bytes=40_000_000)))
    bomb = gzip.compress(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}", 9)
    assert len(bomb) < 100_000
    monkeypatch.setattr(protocol, "_json", lambda text, decoder: pytest.fail("it was decoded"))
    said = refused(ask(app, "POST", INFER, content=bomb, headers={"Content-Encoding": "gzip"}), 400)
    assert "times [, which 256 rows need, got more" in said


@pytest.mark.parametrize("form", ["long", "gzip"])
def test_health_answers_while_a_body_is_read(app: FastAPI, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    service, begun, healthy = service_of(app), threading.Event(), threading.Event()
    parse = service.parse

    def slow(*arguments: Any) -> InferRequest:
        begun.set()
        assert healthy.wait(30)
        return parse(*arguments)

    monkeypatch.setattr(service, "parse", slow)
    body = json.dumps(json_request(releases(256 if form == "long" else 1))).encode()
    options: dict[str, Any] = {"content": body}
    if form == "gzip":
        options = {"content": gzip.compress(body), "headers": {"Content-Encoding": "gzip"}}

    async def speak(client: httpx.AsyncClient) -> int:
        asked = asyncio.create_task(client.post(INFER, **options))
        await asyncio.to_thread(begun.wait, 30)
        assert (await client.get("/v2/health/ready")).status_code == 200
        healthy.set()
        return (await asked).status_code

    assert talk(app, speak) == 200


def test_a_body_that_waits_too_long_to_be_read_is_503(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(bundle, changed(limits=Limits(request_timeout_s=0.05)))
    service, end = service_of(app), threading.Event()
    monkeypatch.setattr(service, "parse", lambda *arguments: end.wait(30))
    answer = ask(app, "POST", INFER, content=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    end.set()
    assert "try again later" in refused(answer, 503)


def test_a_client_notices_that_the_server_holds_another_bundle(tmp_path: Path) -> None:
    whole = make_bundle(tmp_path / "whole", finish=True)
    other = cloud_bundle(tmp_path / "other", seed=1)
    apps = [create_app(cloud_bundle(tmp_path / "one", finish=True), SMALL), create_app(other, SMALL)]
    x = np.zeros((1, 1, 8, 8), np.float32)

    async def switching(scope: Any, receive: Any, send: Any) -> None:
        await apps[0](scope, receive, send)

    async def speak() -> None:
        transport = httpx.ASGITransport(switching)
        async with AsyncEdgeClient(whole, "http://localhost", transport=transport) as client:
            assert (await client.predict(x)).shape == (1, 10)
            del apps[0]
            for _ in range(2):
                with pytest.raises(TrustError, match="expected a server with the passport"):
                    await client.predict(x)

    asyncio.run(speak())


def test_the_default_limit_holds_the_largest_request_as_text(bundle: Path) -> None:
    app = create_app(bundle, changed(limits=Limits(max_rows=4, max_queue_rows=4)))
    r = (releases(4) - 0.5) * 1e-5
    assert ask(app, "POST", INFER, json={"inputs": [tensor(r, data=r.astype(float).tolist())]}).status_code == 200
    assert "at most 4 rows" in refused(ask(app, "POST", INFER, json=json_request(releases(5))), 400)


def test_tokens_guard_all_but_health(bundle: Path) -> None:
    digest = hashlib.sha256(TOKEN.encode()).digest()
    app = create_app(bundle, changed(token_digests=(digest,)))
    for path, method in PATHS.items():
        answer = ask(app, method, path)
        if "health" in path:
            assert answer.status_code == 200
        else:
            refused(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert refused(ask(app, "GET", "/nowhere"), 401)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(app, "GET", "/v2", headers=headers).status_code == 200
    assert ask(app, "POST", INFER, headers=headers, json=json_request(R)).status_code == 200
    assert refused(ask(app, "GET", "/v2", headers={"Authorization": f"Bearer {TOKEN}x"}), 401)


def test_a_client_beyond_its_rate_is_told_when_to_come_again(bundle: Path) -> None:
    app = create_app(bundle, changed(limits=Limits(rate_per_s=0.01, burst=2)))

    async def speak(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post(INFER, json=json_request(R)) for _ in range(3)]

    first, second, third = talk(app, speak)
    assert (first.status_code, second.status_code) == (200, 200)
    assert "slow down" in refused(third, 429)
    assert 90 <= int(third.headers["retry-after"]) <= 100
    assert ask(app, "GET", "/v2/health/live").status_code == 200


def test_a_draining_server_is_not_ready_and_answers_all_the_same(bundle: Path) -> None:
    app = create_app(bundle, SMALL)
    service_of(app).drain()
    for path in ("/v2/health/ready", "/v2/models/digits/ready"):
        answer = ask(app, "GET", path)
        assert "drains" in refused(answer, 503)
        assert "retry-after" in answer.headers
    assert ask(app, "GET", "/v2/health/live").status_code == 200
    assert ask(app, "POST", INFER, json=json_request(R)).status_code == 200


def test_a_passport_that_expires_while_it_is_served_stops_the_replies(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(bundle, SMALL)
    monkeypatch.setattr(service_of(app), "_expires_s", 1.0)
    assert "expired" in refused(ask(app, "POST", INFER, json=json_request(R)), 503)
    assert refused(ask(app, "GET", "/v2/health/ready"), 503)


def test_a_tail_that_fails_is_a_500_with_json(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(bundle, SMALL)

    def fail(rows: Any) -> Any:
        raise RuntimeError("0.123456 is a feature")

    monkeypatch.setattr(service_of(app).batcher, "_run", fail)
    assert "0.123" not in refused(ask(app, "POST", INFER, json=json_request(R)), 500)
    monkeypatch.setattr(service_of(app), "parse", fail)
    assert "error within the server" in refused(ask(app, "POST", INFER, json=json_request(R)), 500)


def test_a_tail_that_takes_too_long_is_a_503(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(bundle, changed(limits=Limits(request_timeout_s=0.05)))

    async def never(rows: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(service_of(app).batcher, "submit", never)
    answer = ask(app, "POST", INFER, json=json_request(R))
    assert "try again later" in refused(answer, 503)
    assert answer.headers["retry-after"] == "1"


def test_a_client_that_hangs_up_while_it_waits_is_dropped(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitveil.cloud.service._LOOK_FOR_CLIENT_S", 0.01)
    app = create_app(bundle, SMALL)
    cancelled: list[bool] = []
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": json.dumps(json_request(R)).encode()}, {"type": "http.disconnect"}]

    async def never(rows: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(service_of(app).batcher, "submit", never)
    scope = {"type": "http", "method": "POST", "path": INFER, "raw_path": b"", "root_path": "", "headers": []}
    asyncio.run(app({**scope, "http_version": "1.1", "query_string": b"", "scheme": "http"}, receive, send))
    assert (cancelled, sent) == ([True], [])
    assert 'splitveil_requests_total{route="infer",status="499"} 1.0' in ask(app, "GET", "/metrics").text


def test_metrics_count_what_happened(bundle: Path) -> None:
    app = create_app(bundle, SMALL)
    ask(app, "POST", INFER, json=json_request(R))
    ask(app, "POST", INFER, json={})
    ask(app, "GET", "/nowhere")
    text = ask(app, "GET", "/metrics").text
    for line in (
        'splitveil_requests_total{route="infer",status="200"} 1.0',
        'splitveil_requests_total{route="infer",status="400"} 1.0',
        'splitveil_requests_total{route="other",status="404"} 1.0',
        "splitveil_rows_total 3.0",
        "splitveil_batch_rows_count 1.0",
        "splitveil_queue_rows 0.0",
        "splitveil_ready 1.0",
    ):
        assert line in text.splitlines()


def test_logs_tell_the_request_and_no_feature(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    r = np.full((1, 4, 8, 8), 0.123456, np.float32)
    with caplog.at_level(logging.INFO, LOGGER.name):
        ask(app, "POST", INFER, json=json_request(r), headers={"Authorization": f"Bearer {TOKEN}"})
        ask(app, "POST", INFER, json={"inputs": [tensor(r, data=["0.123456"] * r.size)]})
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == LOGGER.name]
    assert [(line["event"], line["route"], line["status"], line["rows"]) for line in lines] == [
        ("request", "infer", 200, 1),
        ("request", "infer", 400, 0),
    ]
    assert all(line["ms"] > 0 and line["bytes"] > 0 for line in lines)
    assert "0.1234" not in json.dumps(lines)
    assert TOKEN not in json.dumps(lines)


def test_the_description_names_every_route_and_problem(app: FastAPI) -> None:
    described = ask(app, "GET", "/openapi.json").json()
    names = {path.replace("digits", "{model}").replace("versions/1", "versions/{version}") for path in PATHS}
    assert set(described["paths"]) == names
    infer = described["paths"]["/v2/models/{model}/infer"]["post"]
    assert {"200", "400", "401", "404", "405", "413", "429", "500", "503"} <= set(infer["responses"])
    assert "422" not in json.dumps(described)


def test_serving_imports_no_torch() -> None:
    code = "import splitveil.cloud.app, splitveil.cloud.server, sys; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
