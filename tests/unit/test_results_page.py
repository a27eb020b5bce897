"""The page of results says what the files of the benchmarks say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def test_no_number_is_older_than_its_record() -> None:
    from benchmarks.results_page import PAGE, page

    assert PAGE.read_text() == page(), "run  python -m benchmarks.results_page"
