"""Tokens and rates."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.cloud.access import Rates, Tokens, read_tokens
from splitveil.cloud.problems import HttpError
from splitveil.errors import InputError, MissingDataError

FIRST, SECOND = "first-secret-0123456789", "second-secret-0123456789"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "tokens"
    file.write_text(f"# of the cameras\n{FIRST}\n\n  {SECOND}  \n")
    return Tokens(read_tokens(file))


def test_each_token_of_the_file_opens_the_door(tokens: Tokens) -> None:
    assert tokens.check(f"Bearer {FIRST}".encode()) != tokens.check(f"bearer {SECOND}".encode())


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"Bearer # of the cameras", f"Basic {FIRST}".encode(), FIRST.encode()]
)
def test_nothing_else_does(tokens: Tokens, header: bytes | None) -> None:
    with pytest.raises(HttpError) as caught:
        tokens.check(header)
    assert (caught.value.status, caught.value.headers) == (401, ((b"www-authenticate", b"Bearer"),))


def test_a_door_without_tokens_is_open() -> None:
    assert Tokens(()).check(None) is None


def test_tokens_are_kept_as_digests(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(FIRST)
    assert read_tokens(file) == (hashlib.sha256(FIRST.encode()).digest(),)


@pytest.mark.parametrize(
    "text", ["", "# only words\n", "short\n", "with a space in its middle\n", "schl\u00fcssel-0123456789\n"]
)
def test_a_file_without_good_tokens_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(InputError, match="expected"):
        read_tokens(file)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="tokens"):
        read_tokens(tmp_path / "tokens")


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 50), st.integers(1, 20), st.lists(st.floats(0, 1), min_size=1, max_size=16))
def test_no_window_lets_through_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    now = 0.0
    rates = Rates(rate, burst, clock=lambda: now)
    passed: list[float] = []
    for gap in gaps:
        now += gap
        try:
            rates.spend("client")
        except HttpError as problem:
            now += (problem.retry_after_s or 0) + 1e-6
            rates.spend("client")  # what it was told holds
        passed.append(now)
    for begin in range(len(passed)):
        for end in range(begin, len(passed)):
            assert end - begin + 1 <= burst + rate * (passed[end] - passed[begin]) + 1e-3


def test_clients_have_buckets_of_their_own_and_there_are_not_too_many() -> None:
    rates = Rates(1.0, 1, clock=lambda: 0.0)
    for client in range(20_000):
        rates.spend(client)
    with pytest.raises(HttpError) as caught:
        rates.spend(19_999)
    assert caught.value.headers == ((b"retry-after", b"1"),)
    assert len(rates._buckets) <= 10_000
