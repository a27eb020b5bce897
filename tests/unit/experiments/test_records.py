"""The record of a run is what its files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitveil.errors import InputError, OutputError
from splitveil.experiments.folder import check_folder
from splitveil.records import RunRecord


def test_events_pass_over_a_line_that_a_kill_has_cut_off(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n{"epo')
    assert list(RunRecord(tmp_path).events()) == [{"epoch": 0}, {"epoch": 1}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"epoch": 0}\nnoise\n{"epoch": 1}\n')
    with pytest.raises(InputError, match="line 2"):
        list(RunRecord(tmp_path).events())


def test_no_log_has_no_events(tmp_path: Path) -> None:
    assert list(RunRecord(tmp_path).events()) == []


def test_what_a_kill_within_the_first_write_leaves_does_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".spec.json.x1y2").write_text("{")
    check_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="notes"):
        check_folder(tmp_path)
