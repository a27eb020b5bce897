"""Compressed bodies, and bombs."""

from __future__ import annotations

import gzip
import zlib

import pytest

from splitveil.cloud.inflate import inflate
from splitveil.cloud.problems import HttpError

DATA = b"0123456789" * 100


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (DATA, None),
        (DATA, "identity"),
        (gzip.compress(DATA), "gzip"),
        (gzip.compress(DATA), " GZIP "),
        (gzip.compress(DATA[:400]) + gzip.compress(DATA[400:]), "gzip"),
        (zlib.compress(DATA), "deflate"),
        (zlib.compress(DATA, wbits=-15), "deflate"),
    ],
)
def test_a_body_comes_back(body: bytes, encoding: str | None) -> None:
    assert inflate(body, encoding, len(DATA)) == DATA


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_than_the_limit(encoding: str) -> None:
    bomb = zlib.compress(bytes(4_000_000), 9, wbits=31 if encoding == "gzip" else 15)
    assert len(bomb) < 6000
    with pytest.raises(HttpError, match="at most 1000 bytes") as caught:
        inflate(bomb, encoding, 1000)
    assert caught.value.status == 413


def test_the_limit_holds_for_all_members_together() -> None:
    with pytest.raises(HttpError) as caught:
        inflate(gzip.compress(DATA) * 2, "gzip", len(DATA) + 1)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(DATA)[:-1], "gzip", 400),
        (gzip.compress(DATA) + b"more", "gzip", 400),
        (gzip.compress(b"") * 17, "gzip", 400),
        (zlib.compress(DATA) + b"more", "deflate", 400),
        (DATA, "gzip", 400),
        (b"\x78\x9c broken", "deflate", 400),
        (b"", "gzip", 400),
        (DATA, "br", 415),
        (gzip.compress(DATA), "gzip, gzip", 415),
    ],
)
def test_what_is_broken_is_refused(body: bytes, encoding: str, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        inflate(body, encoding, 10_000)
    assert caught.value.status == status
