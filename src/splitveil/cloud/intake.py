"""The body of a request, read under limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from splitveil.cloud.problems import HttpError

__all__ = ["ClientGoneError", "Intake", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DISCARD_S = 2.0


class ClientGoneError(Exception):
    """The client has hung up: nobody is left to be answered."""


class Intake:
    """One body.

    Args:
        headers: of the request, names in lower case.
        receive: of ASGI.
    """

    def __init__(self, headers: MutableMapping[bytes, bytes], receive: Receive) -> None:
        self._headers, self._receive = headers, receive
        self.size = 0
        self.ended = False

    async def read(self, limit: int, timeout_s: float) -> bytes:
        """All of it.

        Raises:
            HttpError: 413 where it is longer than the limit, 408 where it takes longer than the timeout.
            ClientGoneError: it was cut off.
        """
        declared = self._headers.get(b"content-length", b"0")
        if declared.isdigit() and len(declared) < 20 and int(declared) > limit:
            raise await self._too_large(limit)
        deadline = asyncio.get_running_loop().time() + timeout_s
        parts: list[bytes] = []
        while True:
            parts.append(await self._chunk(deadline))
            if self.size > limit:
                raise await self._too_large(limit)
            if self.ended:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def discard(self, limit: int) -> bool:
        """Read what is left and forget it, so that the client gets to reading the answer; False if it is too much."""
        try:
            async with asyncio.timeout(_DISCARD_S):
                while not self.ended and self.size <= limit:
                    await self._take()
        except TimeoutError:
            return False
        return self.ended

    async def until_gone(self) -> None:
        """Return when the client hangs up; after the body has ended."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _chunk(self, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._take()
        except TimeoutError:
            raise HttpError(408, "expected the whole body in time, got a part of it: send faster", close=True) from None

    async def _take(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        self.size += len(body)
        self.ended = not message.get("more_body", False)
        return body

    async def _too_large(self, limit: int) -> HttpError:
        ended = await self.discard(self.size + limit)
        return HttpError(413, f"expected a body of at most {limit} bytes, got more: send fewer rows", close=not ended)
