"""The names of the tour, in whatever order they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import splitveil as sv


@pytest.mark.parametrize("first", ["sv.report", "import splitveil.report.console"])
def test_the_report_can_be_called_after_its_room_was_entered(first: str) -> None:
    script = f"import splitveil as sv; {first}; assert callable(sv.report); sv.report; assert callable(sv.report)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_report_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(sv.SplitveilError, match="expected the folder of a run"):
        sv.report([tmp_path], tmp_path / "page.html")


def test_words_in_place_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sv.SplitveilError, match="expected a Defense, got 'cem'"):
        sv.train("small", "digits", "cem", out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(sv.SplitveilError, match="expected a ThreatModel, got 'white_box'"):
        sv.attack(tmp_path, threat="white_box")  # type: ignore[arg-type]
    for facts in ({"seed": 1.5}, {"limit": 0}):
        with pytest.raises(sv.SplitveilError, match=next(iter(facts))):
            sv.train("small", "digits", sv.defenses.none(), out=tmp_path / "run", **facts)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
