"""The first to meet a request and the last to see its answer: tokens, rates, errors, metrics, logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter

from starlette.types import ASGIApp

from splitveil.cloud.exchange import Exchange
from splitveil.cloud.intake import ClientGoneError, Receive, Scope, Send
from splitveil.cloud.logs import error_fields, log
from splitveil.cloud.problems import HttpError
from splitveil.cloud.service import Service

__all__ = ["Door"]

_OPEN_TO_ALL = frozenset({"/v2/health/live", "/v2/health/ready"})  # probes hold no token, and learn nothing else
_GONE = 499


class Door:
    """Middleware of ASGI around all routes.

    Args:
        app: what is behind it.
        service: that it counts for.
        shortcuts: what answers POST at a path in place of the app, and its parameters: matching routes, and the layers
            around them, would cost more than all else that inference does before the tail.
    """

    def __init__(self, app: ASGIApp, service: Service, shortcuts: Mapping[str, tuple[ASGIApp, dict[str, str]]]) -> None:
        self._app, self._service, self._shortcuts = app, service, shortcuts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            self._admit(scope, exchange)
            short = self._shortcuts.get(scope["path"]) if scope["method"] == "POST" else None
            if short is None:
                await self._app(scope, receive, exchange.send)
            else:
                scope["path_params"] = short[1]
                await short[0](scope, receive, exchange.send)
        except HttpError as problem:
            await self._refuse(exchange, problem)
        except ClientGoneError:
            exchange.status = _GONE
        except Exception as error:
            log(logging.ERROR, "request_failed", route=exchange.route, **error_fields(error))
            await self._refuse(
                exchange, HttpError(500, "expected an answer, got an error within the server: see its log")
            )
        finally:
            self._note(scope, exchange)

    def _admit(self, scope: Scope, exchange: Exchange) -> None:
        if scope["path"] in _OPEN_TO_ALL:
            return
        client = scope.get("client")
        self._service.access.admit(exchange.headers.get(b"authorization"), client[0] if client else None)

    async def _refuse(self, exchange: Exchange, problem: HttpError) -> None:
        if exchange.status:  # the answer had begun, and no second one can follow it
            return
        try:
            if not exchange.intake.ended and not problem.close:
                problem.close = not await exchange.intake.discard(self._service.body_bytes)
            await exchange.refuse(problem)
        except ClientGoneError:
            exchange.status = _GONE

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        seconds = perf_counter() - exchange.begun
        self._service.metrics.request_done(exchange.route, exchange.status, seconds, exchange.intake.size)
        client = scope.get("client")
        log(
            logging.INFO,
            "request",
            method=scope["method"],
            route=exchange.route,
            status=exchange.status,
            ms=round(1000 * seconds, 2),
            rows=exchange.rows,
            bytes=exchange.intake.size,
            client=client[0] if client else None,
        )
