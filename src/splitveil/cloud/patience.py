"""HTTP/1.1 of uvicorn, with an end to its patience for headers, in time and in bytes, and errors in JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from splitveil.cloud.problems import problem_body

__all__ = ["patient_protocol"]

_MOST_HEADER_BYTES = 65_536


def patient_protocol(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """A protocol class whose connections are closed when the headers of a request take too long, or are too long.

    The parser has no limit of its own, and collects headers before anybody asks who sends them.

    Args:
        header_timeout_s: from a new connection, or from the first byte of a later request, to the end of its headers.
    """

    class PatientProtocol(HttpToolsProtocol):
        _patience: asyncio.TimerHandle | None = None
        _proceeds = False  # whether the last bytes were more than a piece of headers, or of trailers
        _bytes_of_headers = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._patience = self.loop.call_later(header_timeout_s, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._proceeds = False
            super().data_received(data)
            self._bytes_of_headers = 0 if self._proceeds else self._bytes_of_headers + len(data)
            if self._bytes_of_headers > _MOST_HEADER_BYTES:
                self._close_with(
                    b"431 Request Header Fields Too Large",
                    f"expected at most {_MOST_HEADER_BYTES} bytes of headers, got more",
                )

        def on_message_begin(self) -> None:
            self._proceeds = True
            super().on_message_begin()
            if self._patience is None:
                self._patience = self.loop.call_later(header_timeout_s, self._give_up)

        def on_headers_complete(self) -> None:
            self._proceeds = True
            self._relax()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._proceeds = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._proceeds = True
            super().on_message_complete()

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
