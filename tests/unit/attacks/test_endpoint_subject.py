"""An endpoint as a subject, against a server in this process that plays each of its tricks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attack_fixtures import KEY, PICTURE, auxiliary, budgeted, view_of
from splitveil.attacks import endpoint
from splitveil.attacks.controls import Ridge
from splitveil.attacks.endpoint import SHAPE_HEADER, EndpointSubject
from splitveil.contracts import FeatureSpec, Subject
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError, ThreatModelError
from splitveil.noise import SeededNoise

SPEC = FeatureSpec.of((2, 4, 4))
SOURCE = SeededNoise(KEY)
Reply = tuple[int, dict[str, str], bytes]


def encode(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The encoder behind the address: mean and maximum of each 2 x 2 block, in NumPy."""
    blocks = x.reshape(len(x), 4, 2, 4, 2)
    return np.stack([blocks.mean((2, 4)), blocks.max((2, 4))], axis=1)


def honest(x: np.ndarray[Any, Any]) -> Reply:
    r = encode(x).astype("<f4")
    return 200, {SHAPE_HEADER: ",".join(map(str, r.shape))}, r.tobytes()


class Server:
    """Answers each request as `answer` says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[np.ndarray[Any, Any]], Reply] = honest
        self.asked: list[int] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                shape = tuple(map(int, self.headers[SHAPE_HEADER].split(",")))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append(shape[0])
                outer.headers.append(dict(self.headers))
                status, headers, data = outer.answer(np.frombuffer(body, "<f4").reshape(shape))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:  # the client has seen enough
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/release"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def open_subject(server: Server) -> Iterator[Callable[..., EndpointSubject]]:
    opened: list[EndpointSubject] = []

    def open_it(**options: Any) -> EndpointSubject:
        options = {"release_spec": SPEC, "backoff_s": 0.0, **options}
        opened.append(EndpointSubject(server.url, PICTURE, **options))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def pictures(n: int) -> Tensor:
    return auxiliary(n).get(torch.arange(n))[0]


def test_releases_come_over_the_wire(server: Server, open_subject: Callable[..., EndpointSubject]) -> None:
    attacked = open_subject(release_spec=None, batch_size=4, headers={"Authorization": "Bearer 1"})
    assert isinstance(attacked, Subject)
    assert attacked.release_spec == SPEC
    assert server.asked == [1]
    x = pictures(10)
    r = attacked.release(x, SOURCE)
    np.testing.assert_array_equal(r.numpy(), encode(x.numpy()).astype(np.float32))
    assert r.dtype == torch.float32
    assert server.asked == [1, 4, 4, 2]  # one request per batch
    assert server.headers[-1]["Authorization"] == "Bearer 1"
    assert attacked.release(x[:0], SOURCE).shape == (0, 2, 4, 4)
    stack = torch.tensor([0.0, 0.0, 3.0]).reshape(1, 3, 1)
    assert float(attacked.combine(stack)) == 1.0
    assert float(open_subject(combine="median").combine(stack)) == 0.0


def test_the_view_counts_queries(server: Server, open_subject: Callable[..., EndpointSubject]) -> None:
    view = view_of(open_subject(), budgeted(48))
    inverter = Ridge().fit(view, KEY)
    assert view.queries == sum(server.asked) == 48
    assert inverter.invert(torch.zeros(1, 2, 4, 4)).shape == (1, *PICTURE)
    with pytest.raises(ThreatModelError, match="expected at most 48 queries"):
        view.release(pictures(1), KEY)
    assert sum(server.asked) == 48


def test_a_busy_server_is_asked_again(
    server: Server, open_subject: Callable[..., EndpointSubject], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint.time, "sleep", waits.append)
    busy = iter([{}, {"Retry-After": "2"}, {"Retry-After": "999999"}, {"Retry-After": "Wed, 21 Oct"}])

    def later(x: np.ndarray[Any, Any]) -> Reply:
        headers = next(busy, None)
        return honest(x) if headers is None else (503, headers, b"")

    server.answer = later
    assert open_subject(retries=4, backoff_s=0.25).release(pictures(2), SOURCE).shape == (2, 2, 4, 4)
    assert waits == [0.25, 2.0, 30.0, 2.0]
    server.answer = lambda x: (503, {}, b"")
    server.asked.clear()
    with pytest.raises(MissingDataError, match="got status 503 3 times: try later"):
        open_subject(retries=2).release(pictures(2), SOURCE)
    assert len(server.asked) == 3


def test_other_failures_are_not_asked_again(server: Server, open_subject: Callable[..., EndpointSubject]) -> None:
    for status, words in ((500, b"out of\nmemory"), (404, b""), (302, b"elsewhere")):
        server.asked.clear()
        server.answer = lambda x, status=status, words=words: (status, {"Location": "http://127.0.0.1:9/"}, words)
        with pytest.raises(InputError, match=f"expected status 200 from .* got {status}") as caught:
            open_subject().release(pictures(1), SOURCE)
        assert "\n" not in str(caught.value)
        assert len(server.asked) == 1


def shaped(text: str | None, data: bytes = b"", **headers: str) -> Callable[[Any], Reply]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda x: (200, sent | ({} if text is None else {SHAPE_HEADER: text}), data)


LIES: dict[str, tuple[Callable[[Any], Reply], str]] = {
    "no_shape": (shaped(None), "expected Splitveil-Shape of 2 rows"),
    "words": (shaped("two,4"), "expected Splitveil-Shape of 2 rows"),
    "negative": (shaped("2,-4"), "expected Splitveil-Shape of 2 rows"),
    "underscore": (shaped("2,1_0"), "expected Splitveil-Shape of 2 rows"),
    "zero": (shaped("2,0"), "expected Splitveil-Shape of 2 rows"),
    "one_axis": (shaped("2"), "expected Splitveil-Shape of 2 rows"),
    "five_axes": (shaped("2,1,1,1,1"), "expected Splitveil-Shape of 2 rows"),
    "other_rows": (shaped("3,4", bytes(48)), "expected Splitveil-Shape of 2 rows"),
    "long_number": (shaped("2," + "9" * 5000), "expected Splitveil-Shape of 2 rows"),
    "huge": (shaped("2,999999,999999,9999"), "expected a reply of at most 268435456 bytes"),
    "short": (shaped("2,2,4,4", bytes(255)), "expected 256 bytes for shape .* got 255"),
    "long": (shaped("2,2,4,4", bytes(100_000)), "expected 256 bytes for shape .* got more"),
    "zipped": (shaped("2,2,4,4", bytes(256), Content_Encoding="gzip"), "expected a plain reply"),
    "other_release": (shaped("2,3", bytes(24)), r"expected r of shape \(n, 2, 4, 4\)"),
    "nan": (shaped("2,2,4,4", np.full(64, np.nan, "<f4").tobytes()), "expected finite numbers in the releases"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_reply_that_lies_is_refused(server: Server, open_subject: Callable[..., EndpointSubject], name: str) -> None:
    server.answer, message = LIES[name]
    with pytest.raises(InputError, match=message) as caught:
        open_subject().release(pictures(2), SOURCE)
    assert len(str(caught.value)) < 600


def test_a_small_limit_is_kept(server: Server, open_subject: Callable[..., EndpointSubject]) -> None:
    attacked = open_subject(max_reply_bytes=256)
    assert len(attacked.release(pictures(2), SOURCE)) == 2
    with pytest.raises(InputError, match="expected a reply of at most 256 bytes"):
        attacked.release(pictures(3), SOURCE)


@pytest.mark.parametrize("promised", [False, True])
def test_silence_ends_in_an_error(server: Server, open_subject: Callable[..., EndpointSubject], promised: bool) -> None:
    waiting = threading.Event()

    def silent(x: np.ndarray[Any, Any]) -> Reply:
        waiting.wait(5.0)
        return honest(x)

    server.answer = shaped("2,2,4,4", bytes(8), Content_Length="256") if promised else silent
    try:
        with pytest.raises(MissingDataError, match=r"expected an answer from .* within 0\.2 s"):
            open_subject(timeout_s=0.2).release(pictures(2), SOURCE)
    finally:
        waiting.set()


def test_a_trickle_ends_in_an_error(
    open_subject: Callable[..., EndpointSubject], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each packet comes in time, all of them together do not: the clock jumps by a second at each look."""
    attacked = open_subject(timeout_s=1.5)
    clock = iter(range(1000))
    monkeypatch.setattr(endpoint.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(type(attacked._client), "stream", lambda *_, **__: Trickle())
    with pytest.raises(MissingDataError, match="got a reply that trickles"):
        attacked.release(pictures(2), SOURCE)


class Trickle:
    """A reply in packets of one byte."""

    status_code = 200
    headers = {SHAPE_HEADER: "2,2,4,4"}  # noqa: RUF012 - a stand-in that nobody changes

    def __enter__(self) -> Trickle:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def iter_raw(self) -> Iterator[bytes]:
        return iter([b"0"] * 256)


def test_nobody_there() -> None:
    for url in ("http://127.0.0.1:9/release", "http://"):
        with pytest.raises(MissingDataError, match="check the address"):
            EndpointSubject(url, PICTURE)


def test_arguments_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"batch_size": 0}, {"retries": -1}, {"max_reply_bytes": 0}, {"timeout_s": 0.0}, {"backoff_s": -1.0}):
        with pytest.raises(SpecError, match="expected"):
            EndpointSubject("http://127.0.0.1:9", PICTURE, SPEC, **wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setattr(endpoint, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"auditing an endpoint needs .*splitveil\[endpoint\]"):
        EndpointSubject("http://127.0.0.1:9", PICTURE, SPEC)
