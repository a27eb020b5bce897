"""One request and its answer: what the door, the endpoints and the log know about it."""

from __future__ import annotations

from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from splitveil.cloud.intake import Intake, Receive, Scope, Send
from splitveil.cloud.problems import HttpError, problem_body

__all__ = ["Exchange", "exchange_of"]

_KEY = "splitveil.exchange"
_JSON = (b"content-type", b"application/json")


class Exchange:
    """Lives as long as its request.

    Attributes:
        headers: of the request, names in lower case.
        intake: its body.
        route: for metrics and logs; one of few.
        rows: that it asked for.
        status: of the answer; 0 before it begins, 499 where the client has gone.
    """

    __slots__ = ("_send", "begun", "headers", "intake", "route", "rows", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.intake = Intake(self.headers, receive)
        self._send = send
        self.route, self.rows, self.status = "other", 0, 0
        scope[_KEY] = self

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """To the client, with a look at the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def answer(self, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """The whole answer at once."""
        length = (b"content-length", str(len(body)).encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, problem: HttpError) -> None:
        """Answer with a problem."""
        await self.answer(problem.status, problem_body(problem.reason), (_JSON, *problem.headers))


def exchange_of(scope: Scope) -> Exchange:
    """That of a scope that came through the door."""
    found: Exchange = scope[_KEY]
    return found
