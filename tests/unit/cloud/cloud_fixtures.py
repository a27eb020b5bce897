"""What tests of the server share: bundles, bodies, clients without sockets, and a server in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from bundle_fixtures import make_bundle
from splitveil.cloud.app import create_app
from splitveil.cloud.server import DrainingServer, Place, server_config
from splitveil.cloud.settings import Limits, ServeSettings
from splitveil_edge.passport import FINISH

ROW = (4, 8, 8)
INFER = "/v2/models/digits/infer"
SMALL = ServeSettings(max_batch=8, slots=1, threads=1, max_delay_ms=1.0)
T = TypeVar("T")


def cloud_bundle(folder: Path, **changes: Any) -> Path:
    """The cloud's side of a bundle."""
    bundle = make_bundle(folder, **changes)
    (bundle / FINISH).unlink(missing_ok=True)
    return bundle


def releases(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """``(rows, 4, 8, 8)`` in [0, 1)."""
    return np.random.default_rng(seed).random((rows, *ROW), dtype=np.float32)


def tensor(r: NDArray[Any], **changes: Any) -> dict[str, Any]:
    """An input of the protocol, without data."""
    names = {"f": "FP32", "u": "UINT8"}
    return {"name": "r", "shape": list(r.shape), "datatype": names[r.dtype.kind], **changes}


def json_request(r: NDArray[Any], **more: Any) -> dict[str, Any]:
    """A request in JSON, flat."""
    return {"inputs": [tensor(r, data=r.ravel().tolist())], **more}


def binary_request(r: NDArray[Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with a binary tensor."""
    head = {"inputs": [tensor(r, parameters={"binary_data_size": r.nbytes})], **more}
    text = json.dumps(head).encode()
    return text + r.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def reply_of(answer: httpx.Response) -> NDArray[np.float32]:
    """The reply of an answer in JSON or with a binary tensor."""
    assert answer.status_code == 200, answer.text
    size = answer.headers.get("Inference-Header-Content-Length")
    head = json.loads(answer.content[: int(size)] if size else answer.content)
    [output] = head["outputs"]
    if size:
        return np.frombuffer(answer.content[int(size) :], "<f4").reshape(output["shape"])
    return np.array(output["data"], np.float32).reshape(output["shape"])


def talk(app: FastAPI, speak: Callable[[httpx.AsyncClient], Awaitable[T]], **options: Any) -> T:
    """Run a conversation with an application, without a socket."""

    async def run() -> T:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", **options) as client:
            return await speak(client)

    return asyncio.run(run())


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """One request."""
    return talk(app, lambda client: client.request(method, path, **options))


@contextmanager
def live(bundle: Path, settings: ServeSettings = SMALL, place: Place | None = None) -> Iterator[LiveServer]:
    """A server in a thread of this process, at a port of its own."""
    place = place or Place(port=0, drain_s=0.0)
    app = create_app(bundle, settings)
    with place.bind() as bound:
        server = DrainingServer(server_config(app, place, settings.limits), app, place)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        while not server.started or (place.grpc_port is not None and server.grpc_port is None):
            time.sleep(0.01)
            assert thread.is_alive()
        try:
            yield LiveServer(place.url(bound), server, app)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class LiveServer:
    """Where it listens, and what it runs."""

    def __init__(self, url: str, server: DrainingServer, app: FastAPI) -> None:
        self.url, self.server, self.app = url, server, app
        self.port = int(url.rsplit(":", 1)[1])


__all__ = ["INFER", "ROW", "SMALL", "Limits", "LiveServer", "ask", "binary_request", "cloud_bundle", "json_request"]
__all__ += ["live", "releases", "reply_of", "talk", "tensor"]
