"""When a request is tried again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from splitveil_edge.errors import UsageError

__all__ = ["RETRIED_STATUSES", "Retries"]

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Answers of a server that is busy, restarting, or behind a gateway that misses it."""

_RANDOM = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff with full jitter: attempt k waits between 0 and ``min(longest_s, first_s 2^k)``.

    A release is drawn once and sent again as it is, so that retries tell the server nothing new.

    Args:
        attempts: in all, 1 for no retry.
        first_s: the longest wait before the second attempt, seconds.
        longest_s: the longest wait, seconds; what a server asks for by ``Retry-After`` is waited for up to this.

    Raises:
        UsageError: a value out of range.

    Example:
        >>> len(list(Retries(attempts=4).waits()))
        3
    """

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_s <= self.longest_s:
            raise UsageError(f"expected attempts >= 1 and 0 <= first_s <= longest_s, got {self}")

    def waits(self) -> Iterator[float]:
        """The wait before each further attempt, seconds."""
        longest_s = self.first_s
        for _ in range(self.attempts - 1):
            yield _RANDOM.uniform(0.0, longest_s)
            longest_s = min(self.longest_s, 2.0 * longest_s)

    def asked(self, wait_s: float, retry_after: str | None) -> float:
        """The wait, not shorter than a server's ``Retry-After`` in seconds, up to `longest_s`."""
        text = (retry_after or "").strip()
        asked_s = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
        return min(self.longest_s, max(wait_s, asked_s))
