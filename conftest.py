"""What every test and every docstring's example gets: one thread, seeded draws, a cache of its own."""

from __future__ import annotations

import os
from itertools import count

os.environ["OMP_NUM_THREADS"] = "1"  # two that share their cores with another process wait; before torch is imported

import pytest

_NUMBERS = count()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What draws without a seed of its own draws the same, whatever ran before it in the process."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is there once somebody writes to it, and that no other test has filled."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_NUMBERS))
    monkeypatch.setenv("SPLITVEIL_CACHE", str(folder))
