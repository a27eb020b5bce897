"""Small convolutions run on one thread, and what is kept between audits stays within a test."""

from __future__ import annotations

import os
from itertools import count

os.environ["OMP_NUM_THREADS"] = "1"  # two that share their cores with another process wait; before torch is imported

import pytest

_NUMBERS = count()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is there once somebody writes to it, and that no other test has filled."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_NUMBERS))
    monkeypatch.setenv("SPLITVEIL_CACHE", str(folder))
