"""The application in a process of its own: sockets, TLS, signals, and an end that loses no request."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from splitveil.cloud.app import create_app, service_of
from splitveil.cloud.logs import log
from splitveil.cloud.patience import patient_protocol
from splitveil.cloud.service import Service
from splitveil.cloud.settings import Limits, ServeSettings
from splitveil.errors import InputError, MissingExtraError, OutputError, SpecError

if TYPE_CHECKING:
    from splitveil.cloud.grpc.server import GrpcServer

__all__ = ["DrainingServer", "Place", "serve", "server_config"]

_KEEP_ALIVE_S = 60
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and how it stops.

    Args:
        host: name or address.
        port: 0 lets the operating system choose.
        grpc_port: of gRPC, beside; 0 likewise, None leaves gRPC out.
        tls_cert: certificate chain, PEM; None for plain HTTP.
        tls_key: its private key, PEM.
        drain_s: after SIGTERM, how long new requests are still answered while readiness says 503.
        grace_s: how long requests that run may take to end after that.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    drain_s: float = 5.0
    grace_s: int = 30

    def __post_init__(self) -> None:
        for port in (self.port, self.grpc_port or 0):
            if not 0 <= port <= 65535:
                raise SpecError(f"expected a port from 0 to 65535, got {port}")
        if self.port and self.port == self.grpc_port:
            raise SpecError(f"expected two ports, got {self.port} for both REST and gRPC: choose another grpc_port")
        if self.grpc_port is not None and find_spec("grpc") is None:
            raise MissingExtraError("grpcio", "grpc", "serving over gRPC")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SpecError("expected a certificate and its key, got one of them: give --tls-cert and --tls-key")
        if self.drain_s < 0 or self.grace_s < 0:
            raise SpecError(f"expected drain_s and grace_s >= 0, got {self.drain_s} and {self.grace_s}")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_pair(self.tls_cert, self.tls_key)

    def bind(self) -> socket.socket:
        """The socket, listening nowhere yet.

        Raises:
            OutputError: the port is taken, or the address is not of this machine.
        """
        bound: socket.socket | None = None
        try:
            family, kind, number, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, number)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            if bound is not None:
                bound.close()
            reason = error.strerror or str(error)
            raise OutputError(f"cannot listen at {self.host}:{self.port}: {reason}; choose another --port") from error
        return bound

    @property
    def grpc_address(self) -> str:
        """Host and port of gRPC."""
        return f"{self._bracketed}:{self.grpc_port or 0}"

    def url(self, bound: socket.socket) -> str:
        """Of a socket that this place bound."""
        return f"http{'s' if self.tls_cert else ''}://{self._bracketed}:{bound.getsockname()[1]}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class DrainingServer(uvicorn.Server):
    """uvicorn, whose end goes in steps.

    ```
    SIGTERM ─► ready says 503, requests are answered ─ drain_s ─► no new connections, what runs ends ─ grace_s ─► exit 0
    SIGINT, or a second SIGTERM, leaves the first step out
    ```
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, place: Place) -> None:
        super().__init__(config)
        self._service, self._drain_s, self._grace_s = service_of(app), place.drain_s, place.grace_s
        self._grpc = None if place.grpc_port is None else _grpc_server(self._service, place)
        self.grpc_port: int | None = None
        self._exit_at: float | None = None
        self.was_interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal; `on_tick` acts on it, since a signal may come at any instruction."""
        self.was_interrupted = sig == signal.SIGINT
        at_once = self.was_interrupted or self._exit_at is not None
        self.force_exit = self.force_exit or (self.was_interrupted and self.should_exit)
        self._exit_at = monotonic() + (0.0 if at_once else self._drain_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """REST first, then gRPC beside it, in the same loop and over the same batches."""
        await super().startup(sockets)
        if self._grpc is not None and not self.should_exit:
            self.grpc_port = await self._grpc.start()
            log(logging.INFO, "listening", grpc_port=self.grpc_port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Both: the batches end with REST's application, so gRPC goes first."""
        if self._grpc is not None:
            await self._grpc.stop(0 if self.force_exit else self._grace_s)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._exit_at is not None:
            self._service.drain()
            self.should_exit = self.should_exit or monotonic() >= self._exit_at
        return await super().on_tick(counter)


def serve(bundle: str | Path, settings: ServeSettings | None = None, place: Place | None = None) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C, then drain.

    Args:
        bundle: folder with cloud.onnx and passport.json.
        settings: the defaults measure what suits this machine, which takes some seconds.
        place: where to listen.

    Raises:
        EdgeError, SplitveilError: as `splitveil.cloud.app.create_app`; `OutputError` where the port is taken.
        KeyboardInterrupt: Ctrl-C, once all is drained.
    """
    place = place or Place()
    bound = place.bind()  # before seconds of measuring, which a taken port would waste
    with bound:
        app = create_app(bundle, settings)
        service = service_of(app)
        if (
            service.settings.token_digests
            and place.tls_cert is None
            and place.host not in ("127.0.0.1", "::1", "localhost")
        ):
            log(logging.WARNING, "tokens_in_the_clear", cure="give --tls-cert and --tls-key, or let a proxy end TLS")
        server = DrainingServer(server_config(app, place, service.settings.limits), app, place)
        log(
            logging.INFO,
            "listening",
            url=place.url(bound),
            model=service.passport.name,
            passport=service.passport.digest,
        )
        server.run(sockets=[bound])
        log(logging.INFO, "stopped")
    if server.was_interrupted:
        raise KeyboardInterrupt


def server_config(app: FastAPI, place: Place, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs an application here."""
    return uvicorn.Config(
        app,
        http=patient_protocol(limits.header_timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # else whoever asks names the address that its rate is counted for
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=place.grace_s,
        ssl_certfile=place.tls_cert,
        ssl_keyfile=place.tls_key,
    )


def _grpc_server(service: Service, place: Place) -> GrpcServer:
    from splitveil.cloud.grpc.server import GrpcServer

    tls = None if place.tls_cert is None or place.tls_key is None else (place.tls_cert, place.tls_key)
    return GrpcServer(service, place.grpc_address, tls)


def _check_pair(cert: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise InputError(f"expected a certificate '{cert}' and its key '{key}' as PEM, got {reason}") from error
