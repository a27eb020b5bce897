"""Who may ask, and how often."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from splitveil.cloud.problems import HttpError
from splitveil.errors import InputError, MissingDataError

__all__ = ["Access", "Rates", "Tokens", "read_tokens"]

_SHORTEST_TOKEN = 16
_MOST_TOKENS = 1000
_MOST_CLIENTS = 10_000


def read_tokens(file: Path) -> tuple[bytes, ...]:
    """The digests of the tokens in a file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        MissingDataError: there is no such file.
        InputError: it holds no token, or one that is too short to be a secret.
    """
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"expected a file of tokens in UTF-8, got '{file}'") from error
    except OSError as error:
        raise MissingDataError(f"expected a file of tokens at '{file}', got {error.strerror}") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not 1 <= len(tokens) <= _MOST_TOKENS:
        raise InputError(f"expected 1 to {_MOST_TOKENS} tokens in '{file}', one a line, got {len(tokens)}")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST_TOKEN or not token.isascii() or " " in token:
            raise InputError(
                f"expected ASCII tokens of at least {_SHORTEST_TOKEN} characters in '{file}', got another as token "
                f"{number}: draw one with  python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return tuple(_digest(token.encode()) for token in tokens)


class Tokens:
    """The door: ``Authorization: Bearer TOKEN``.

    Args:
        digests: sha256 of the tokens that open it; none leaves it open.

    Example:
        >>> door = Tokens([hashlib.sha256(b"a secret of some length").digest()])
        >>> door.check(b"Bearer a secret of some length") is not None
        True
    """

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(digests)

    def check(self, header: bytes | None) -> bytes | None:
        """Who asks, as a digest; None where the door is open to all.

        Raises:
            HttpError: status 401.
        """
        if not self._digests:
            return None
        scheme, _, token = (header or b"").partition(b" ")
        given = _digest(token.strip())
        # every token is compared in constant time, whichever fits: time tells neither a prefix nor a place
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or not any(found):
            raise HttpError(
                401, "expected the header 'Authorization: Bearer TOKEN' with a token of this server, got none"
            )
        return given


class Rates:
    """A bucket of tokens per client: `burst` at once, then `rate_per_s`.

    Args:
        rate_per_s: requests of one client.
        burst: that it may send at once.
        clock: seconds.

    Example:
        >>> rates = Rates(1.0, 1, clock=lambda: 0.0)
        >>> rates.spend("me")
        >>> rates.spend("me")
        Traceback (most recent call last):
        splitveil.cloud.problems.HttpError: expected at most 1 requests per second from one client, got more: slow down
    """

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate_per_s, float(burst), clock
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def spend(self, client: object) -> None:
        """Take one token of a client's.

        Raises:
            HttpError: status 429, with the time until there is one.
        """
        now = self._clock()
        level, since = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        enough = level >= 1
        self._buckets[client] = (level - 1 if enough else level, now)
        if len(self._buckets) > _MOST_CLIENTS:  # who has been away longest has a bucket that is the fullest
            self._buckets.popitem(last=False)
        if not enough:
            raise HttpError(
                429,
                f"expected at most {self._rate:g} requests per second from one client, got more: slow down",
                retry_after_s=(1 - level) / self._rate,
            )


class Access:
    """Tokens and rates of one server, whichever way it is asked.

    Args:
        token_digests: see `Tokens`.
        rate_per_s: see `Rates`; None for no limit.
        burst: see `Rates`.
    """

    def __init__(self, token_digests: Sequence[bytes], rate_per_s: float | None, burst: int) -> None:
        self._tokens = Tokens(token_digests)
        self._rates = None if rate_per_s is None else Rates(rate_per_s, burst)

    def admit(self, header: bytes | None, address: str | None) -> None:
        """Let one request in, or raise a `HttpError` with status 401 or 429.

        Args:
            header: its ``Authorization``.
            address: whose rate counts where no token says who asks.
        """
        token = self._tokens.check(header)
        if self._rates is not None:
            self._rates.spend(token or address)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
