"""The gRPC server: admission, errors, metrics and logs around each call, as the door does for REST."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from splitveil import __version__
from splitveil.cloud.endpoints import check_model
from splitveil.cloud.grpc.messages import METHODS, PACKAGE, SERVICE, message
from splitveil.cloud.grpc.translation import infer_request, infer_response, model_metadata
from splitveil.cloud.logs import error_fields, log
from splitveil.cloud.problems import HttpError
from splitveil.cloud.service import OUTPUT, VERSION, Service
from splitveil.errors import OutputError

__all__ = ["GrpcServer"]

_OPEN_TO_ALL = frozenset({"ServerLive", "ServerReady"})
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_STATUS_GONE, _STATUS_FAILED = 499, 500
_PUSHBACK = "grpc-retry-pushback-ms"
_PASSPORT_DIGITS = 16
_CALLS_AT_ONCE = 4096


class GrpcServer:
    """One service over gRPC, in the event loop that starts it.

    Args:
        service: that answers.
        address: ``host:port``.
        tls: certificate chain and private key, PEM files; None for plain HTTP/2.
    """

    def __init__(self, service: Service, address: str, tls: tuple[Path, Path] | None = None) -> None:
        self._service, self._address, self._tls = service, address, tls
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            OutputError: the port is taken, or the address is not of this machine.
        """
        options = (
            ("grpc.max_receive_message_length", self._service.body_bytes),
            ("grpc.so_reuseport", 0),  # else a second server would share the port in silence
        )
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_CALLS_AT_ONCE)
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            port = self._listen(server)
        except RuntimeError as error:
            raise OutputError(f"cannot listen at {self._address} for gRPC; choose another --grpc-port") from error
        await server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no new calls; those that run may end within the grace."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def _listen(self, server: grpc.aio.Server) -> int:
        if self._tls is None:
            return int(server.add_insecure_port(self._address))
        chain, key = (file.read_bytes() for file in self._tls)
        return int(server.add_secure_port(self._address, grpc.ssl_server_credentials([(key, chain)])))

    def _handlers(self) -> grpc.GenericRpcHandler:
        answers = _Answers(self._service)
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                _guarded(self._service, method, getattr(answers, method)),
                response_serializer=message(f"{method}Response").SerializeToString,
            )
            for method in METHODS
        }
        return grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", handlers)


class _Answers:
    """One method per call, from message to message; raises `HttpError`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, sent: Any) -> Any:  # noqa: N802, as the protocol names it
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, sent: Any) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._service.is_ready)

    async def ModelReady(self, sent: Any) -> Any:  # noqa: N802
        self._check(sent.name, sent.version)
        return message("ModelReadyResponse")(ready=self._service.is_ready)

    async def ServerMetadata(self, sent: Any) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(name="splitveil", version=__version__, extensions=[])

    async def ModelMetadata(self, sent: Any) -> Any:  # noqa: N802
        self._check(sent.name, sent.version)
        return model_metadata(self._service.metadata())

    async def ModelInfer(self, sent: Any) -> Any:  # noqa: N802
        service = self._service
        self._check(sent.model_name, sent.model_version)
        asked = infer_request(sent, service.input, [OUTPUT], service.settings.limits.max_rows)
        rows = service.check(asked).inputs[service.input.name]
        reply = await service.reply(rows)
        passport = service.passport
        return infer_response(passport.name, VERSION, asked.id, {OUTPUT: reply}, passport.digest[:_PASSPORT_DIGITS])

    def _check(self, name: str, version: str) -> None:
        check_model(self._service, {"model": name, **({"version": version} if version else {})})


def _guarded(
    service: Service, method: str, answer: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
    """A call that is admitted, whose errors have a code and a reason, and that is counted and logged."""

    kind = message(f"{method}Request")

    async def call(sent: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        begun, status, client = perf_counter(), 200, _client(context)
        try:
            if method not in _OPEN_TO_ALL:
                service.access.admit(_authorization(context), client)
            return await answer(_read(kind, sent))
        except HttpError as problem:
            status = problem.status
            await _abort(context, problem)
        except asyncio.CancelledError:
            status = _STATUS_GONE
            raise
        except Exception as error:
            status = _STATUS_FAILED
            log(logging.ERROR, "request_failed", route=method, **error_fields(error))
            await context.abort(
                grpc.StatusCode.INTERNAL, "expected an answer, got an error within the server: see its log"
            )
        finally:
            _note(service, method, status, perf_counter() - begun, len(sent), client)

    return call


def _read(kind: Any, sent: bytes) -> Any:
    try:
        return kind.FromString(sent)
    except DecodeError:
        raise HttpError(400, f"expected a message {kind.DESCRIPTOR.full_name}, got bytes that are none") from None


async def _abort(context: grpc.aio.ServicerContext[Any, Any], problem: HttpError) -> None:
    after = problem.retry_after_s
    trailing = () if after is None else ((_PUSHBACK, str(max(1, round(1000 * after)))),)
    await context.abort(_CODES.get(problem.status, grpc.StatusCode.INTERNAL), problem.reason, trailing)


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, bytes) else value.encode()
    return None


def _client(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """The address without its port, which changes with each connection."""
    kind, _, rest = context.peer().partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None


def _note(service: Service, method: str, status: int, seconds: float, received: int, client: str | None) -> None:
    route = f"grpc {method}"
    service.metrics.request_done(route, status, seconds, received)
    log(
        logging.INFO,
        "request",
        method="grpc",
        route=route,
        status=status,
        ms=round(1000 * seconds, 2),
        bytes=received,
        client=client,
    )
