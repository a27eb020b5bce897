"""HTTP/1.1 of uvicorn, with an end to its patience for headers, and errors in JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from splitveil.cloud.problems import problem_body

__all__ = ["patient_protocol"]


def patient_protocol(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol class whose connections are closed when the headers of a request take too long.

    Args:
        header_timeout_s: from a new connection, or from the first byte of a later request, to the end of its headers.
    """

    class PatientProtocol(HttpToolsProtocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._patience = self.loop.call_later(header_timeout_s, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._patience is None:
                self._patience = self.loop.call_later(header_timeout_s, self._give_up)

        def on_headers_complete(self) -> None:
            self._relax()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._close_with(b"400 Bad Request", "expected a request of HTTP/1.1, got something else")

        def _relax(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._close_with(b"408 Request Timeout", "expected the headers of a request in time, got a part of them")

        def _close_with(self, status: bytes, reason: str) -> None:
            body = problem_body(reason)
            head: tuple[Any, ...] = (status, len(body))
            self.transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % head
                + body
            )
            self.transport.close()

    return PatientProtocol
