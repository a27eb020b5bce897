"""Compressed bodies, inflated under a cap: a bomb costs no more than the cap."""

from __future__ import annotations

import zlib

from splitveil.cloud.problems import HttpError, shown

__all__ = ["inflate"]

_MOST_MEMBERS = 16
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def inflate(data: bytes, encoding: str | None, limit: int) -> bytes:
    """A body as its encoding says.

    Args:
        data: as it came.
        encoding: the text of the header Content-Encoding; None and ``identity`` leave the data as they are.
        limit: of the result, bytes.

    Raises:
        HttpError: 413 where the result is larger than the limit, 415 for other encodings, 400 for data that are broken,
            truncated, or followed by something else.

    Example:
        >>> import gzip
        >>> inflate(gzip.compress(b"tensor"), "gzip", 100)
        b'tensor'
    """
    kind = (encoding or "identity").strip().lower()
    if kind == "identity":
        return data
    if kind in ("gzip", "x-gzip"):
        return _members(data, limit)
    if kind == "deflate":
        return _deflated(data, limit)
    raise HttpError(415, f"expected Content-Encoding gzip, deflate or identity, got {shown(encoding)}")


def _members(data: bytes, limit: int) -> bytes:
    """A gzip file may be several, one after another; each costs a copy of the rest, so there are few."""
    parts: list[bytes] = []
    room = limit
    for _ in range(_MOST_MEMBERS):
        part, data = _one(data, _GZIP, room, limit)
        parts.append(part)
        room -= len(part)
        if not data:
            return b"".join(parts)
    raise HttpError(400, f"expected at most {_MOST_MEMBERS} gzip members in a body, got more")


def _deflated(data: bytes, limit: int) -> bytes:
    # the name means a zlib stream; clients that send raw deflate are as old as the name
    begins_zlib = len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    found, rest = _one(data, _ZLIB if begins_zlib else _RAW, limit, limit)
    if rest:
        raise HttpError(400, f"expected one deflate stream as body, got {len(rest)} bytes more behind it")
    return found


def _one(data: bytes, window: int, room: int, limit: int) -> tuple[bytes, bytes]:
    stream = zlib.decompressobj(window)
    try:
        found = stream.decompress(data, room + 1)
    except zlib.error as error:
        raise HttpError(400, "expected a body that is compressed as Content-Encoding says, got other data") from error
    if len(found) > room:
        raise HttpError(413, f"expected a body that inflates to at most {limit} bytes, got more")
    if not stream.eof:
        raise HttpError(400, "expected a whole compressed body, got a truncated one")
    return found, stream.unused_data
