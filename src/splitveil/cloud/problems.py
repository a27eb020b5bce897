"""What a client is told when it gets no answer."""

from __future__ import annotations

import json
import reprlib

__all__ = ["HttpError", "problem_body", "shown"]

_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxother, _REPR.maxlong = 60, 60, 30
_REPR.maxlist, _REPR.maxdict, _REPR.maxlevel = 8, 2, 2


class HttpError(Exception):
    """An HTTP status and its reason; every answer but 200 carries ``{"error": reason}``.

    Args:
        status: of HTTP, from 400 on.
        reason: expected, got, cure; never holds features.
        retry_after_s: when the same request may succeed, seconds; None where it will not.
        close: whether the connection can no longer be used, as after a body that was not read to its end.

    Example:
        >>> HttpError(429, "expected less").headers
        ()
        >>> HttpError(429, "expected less", retry_after_s=0.2).headers
        ((b'retry-after', b'1'),)
    """

    def __init__(self, status: int, reason: str, *, retry_after_s: float | None = None, close: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after_s, self.close = status, reason, retry_after_s, close

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Names in lower case, values; beside the type and length of the body."""
        found: tuple[tuple[bytes, bytes], ...] = ()
        if self.retry_after_s is not None:
            found += ((b"retry-after", str(max(1, round(self.retry_after_s + 0.499))).encode()),)
        if self.close:
            found += ((b"connection", b"close"),)
        if self.status == 401:
            found += ((b"www-authenticate", b"Bearer"),)
        return found


def problem_body(reason: str) -> bytes:
    """``{"error": reason}`` as JSON.

    Example:
        >>> problem_body("no such model")
        b'{"error": "no such model"}'
    """
    return json.dumps({"error": reason}).encode()


def shown(value: object) -> str:
    """A value of the client's, cut to what a message may hold.

    Example:
        >>> shown("x" * 1000) == repr("x" * 1000)
        False
        >>> len(shown("x" * 1000)) <= 60
        True
    """
    return _REPR.repr(value)
