"""The routes of the protocol: what each answers, and the paths that it stands at."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from splitveil import __version__
from splitveil.cloud.exchange import exchange_of
from splitveil.cloud.intake import Receive, Scope, Send
from splitveil.cloud.problems import HttpError
from splitveil.cloud.protocol import HEADER_LENGTH
from splitveil.cloud.replies import encode_reply
from splitveil.cloud.service import OUTPUT, VERSION, Service

__all__ = ["Endpoints", "Infer"]

_RETRY_S = 1.0
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")


class Endpoints:
    """All routes but the one for inference.

    Args:
        service: that answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of the server."""
        exchange_of(request.scope).route = "server"
        return JSONResponse({"name": "splitveil", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """Whether the process runs."""
        exchange_of(request.scope).route = "live"
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether new requests are welcome; 503 while the server drains."""
        exchange_of(request.scope).route = "ready"
        self._check_ready()
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        """Inputs, outputs and passport of the model."""
        exchange_of(request.scope).route = "metadata"
        check_model(self._service, request.path_params)
        return JSONResponse(self._service.metadata())

    async def model_ready(self, request: Request) -> Response:
        """Whether the model takes requests; 503 while the server drains."""
        exchange_of(request.scope).route = "model_ready"
        check_model(self._service, request.path_params)
        self._check_ready()
        return JSONResponse({"name": self._service.passport.name, "ready": True})

    async def metrics(self, request: Request) -> Response:
        """What the server counts, in the text format of Prometheus."""
        exchange_of(request.scope).route = "metrics"
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    def _check_ready(self) -> None:
        if not self._service.is_ready:
            raise HttpError(503, "expected a server that is ready, got one that drains", retry_after_s=_RETRY_S)


class Infer:
    """The route for inference, as a plain ASGI application: at its rate, each layer between costs.

    Args:
        service: that answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        service, exchange = self._service, exchange_of(scope)
        exchange.route = "infer"
        params: dict[str, str] = scope["path_params"]
        check_model(service, params)
        body = await exchange.intake.read(service.body_bytes, service.settings.limits.body_timeout_s)
        headers = exchange.headers
        request = await service.read(body, _text(headers, b"content-encoding"), _text(headers, _HEADER_LENGTH))
        rows = request.inputs["r"]
        exchange.rows = len(rows)
        reply = await service.reply(rows, exchange.intake)
        named = request.parameters.get("passport")
        answer, size = encode_reply(
            service.passport.name, params.get("version"), request.id, {OUTPUT: reply}, request.outputs, named
        )
        if size is None:
            await exchange.answer(200, answer, (_JSON,))
        else:
            await exchange.answer(200, answer, (_BINARY, (_HEADER_LENGTH, str(size).encode())))


_HEADER_LENGTH = HEADER_LENGTH.lower().encode()


def check_model(service: Service, params: dict[str, Any]) -> None:
    """Raise a `HttpError` with status 404 unless the path names the model, and its version if it names one."""
    name, version = params["model"], params.get("version", VERSION)
    if name != service.passport.name:
        raise HttpError(404, f"expected the model '{service.passport.name}', got another name in the path")
    if version != VERSION:
        raise HttpError(404, f"expected the version {VERSION} of '{name}', got another one in the path")


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
