"""HTTP as the edge speaks it: what is checked before, what is tried again, what an answer may weigh."""

from __future__ import annotations

import ipaddress
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from splitveil_edge.errors import InputError, MissingFileError, ServerError, TrustError, UnavailableError, UsageError
from splitveil_edge.passport import Passport
from splitveil_edge.protocol import reason_of
from splitveil_edge.retrying import RETRIED_STATUSES, Retries

__all__ = ["Answer", "Attempts", "Collector", "Security", "client_options", "drop_defaults", "largest_reply"]

METADATA_BYTES = 16 * 2**20
_REPLY_BYTES = 64 * 2**10
_BYTES_PER_VALUE = 40  # of JSON, indented

_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)
_DEFAULTS = ("accept", "accept-encoding", "connection", "user-agent")


@dataclass(frozen=True, slots=True)
class Security:
    """How the server is reached.

    Args:
        token: sent as ``Authorization: Bearer``; None for none.
        ca: file of certificates to trust in place of the usual ones.
        plain: hosts to which a token, or releases, may go without TLS, besides this very machine.

    Raises:
        UsageError: a token that cannot stand in a header.
    """

    token: str | None = None
    ca: Path | None = None
    plain: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        token = self.token
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise UsageError("expected a token of printable ASCII characters without spaces, got another: check it")

    def check(self, server: str) -> str:
        """The address without a slash at its end.

        Raises:
            UsageError: it is no address, or one without TLS that is neither this machine nor named in `plain`.
        """
        try:
            url = httpx.URL(server)
        except (httpx.InvalidURL, TypeError) as error:
            raise UsageError(f"expected a server as https://host:port, got {server!r}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment or url.userinfo:
            raise UsageError(f"expected a server as https://host:port, got {server!r}")
        if url.scheme == "http" and not (_is_here(url.host) or url.host in self.plain):
            raise UsageError(
                f"expected https for '{url.host}', got http, which anybody on the way can read and change: use TLS, or "
                f"name the host as one that needs none (--plain {url.host})"
            )
        return str(url).rstrip("/")

    def context(self) -> ssl.SSLContext | bool:
        """What certificates are checked with."""
        if self.ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=str(self.ca))
        except FileNotFoundError as error:
            raise MissingFileError(f"expected certificates at '{self.ca}', got no such file: check --ca") from error
        except (ssl.SSLError, OSError) as error:
            raise InputError(f"expected certificates as PEM in '{self.ca}', got {error}: check --ca") from error


def client_options(server: str, security: Security, timeout_s: float, transport: Any) -> dict[str, Any]:
    """Keyword arguments of `httpx.Client` and `httpx.AsyncClient`."""
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise UsageError(f"expected a timeout > 0 seconds, got {timeout_s}")
    headers = {} if security.token is None else {"Authorization": f"Bearer {security.token}"}
    url = security.check(server)
    return {
        "base_url": url,
        "headers": headers,
        "verify": security.context(),
        "timeout": timeout_s,
        "transport": transport,
        "trust_env": url.startswith("https:"),  # a proxy of the environment would read what goes without TLS
        "follow_redirects": False,  # a redirect would carry the release to somebody whom nobody has checked
    }


def drop_defaults(headers: httpx.Headers) -> None:
    """Leave out what every request would carry for nothing: at batch 1 the headers are most of what is not tensor."""
    for name in _DEFAULTS:
        del headers[name]


def largest_reply(passport: Passport, rows: int) -> int:
    """Bytes that an honest answer never exceeds."""
    return _REPLY_BYTES + _BYTES_PER_VALUE * rows * math.prod(passport.reply_shape)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Collector:
    """Takes a body chunk by chunk, up to a size and a time.

    Args:
        most: bytes.
        timeout_s: from now to the last chunk; a server that drips cannot hold the device for ever.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self._most, self._end_s = most, time.monotonic() + timeout_s
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """One more chunk.

        Raises:
            ServerError: too many bytes.
            httpx.ReadTimeout: too late.
        """
        self._size += len(chunk)
        if self._size > self._most:
            raise ServerError(f"expected an answer of at most {self._most} bytes, got more: the server is not ours")
        if time.monotonic() > self._end_s:
            raise httpx.ReadTimeout("the answer took too long")
        self._chunks.append(chunk)

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._chunks)


class Attempts:
    """What follows from each outcome of one request, without doing any of it.

    Args:
        retries: how often, and after how long.
        server: for messages.
    """

    def __init__(self, retries: Retries, server: str) -> None:
        self._retries, self._waits, self._server = retries, retries.waits(), server

    def after(self, outcome: Answer | httpx.RequestError) -> float | None:
        """Seconds to wait before the next attempt, None where the answer is good.

        Raises:
            UnavailableError: no attempt is left.
            ServerError: another attempt would not help.
            TrustError: the server's certificate is not trusted.
        """
        if isinstance(outcome, Answer):
            if outcome.status == 200:
                return None
            reason = f"status {outcome.status}: {reason_of(outcome.body)}"
            if outcome.status not in RETRIED_STATUSES:
                raise ServerError(f"'{self._server}' refused, with {reason}", outcome.status)
            asked, status = outcome.headers.get("retry-after"), outcome.status
        else:
            reason, asked, status = f"{type(outcome).__name__}: {outcome}", None, None
            _raise_hopeless(outcome, self._server)
        wait_s = next(self._waits, None)
        if wait_s is None:
            raise UnavailableError(
                f"expected an answer of '{self._server}' within {self._retries.attempts} attempts, got {reason}; try "
                "again later",
                status,
            )
        return self._retries.asked(wait_s, asked)


def _raise_hopeless(error: httpx.RequestError, server: str) -> None:
    if isinstance(error, _HOPELESS):
        raise ServerError(f"cannot ask '{server}': {error}; check its address") from error
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise TrustError(
            f"expected a certificate of '{server}' that this device trusts, got {error}: pass the authority that "
            "signed it (--ca)"
        ) from error


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
