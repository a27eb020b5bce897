"""The record of a run is what its files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitveil.errors import InputError, MissingDataError, OutputError, SpecError
from splitveil.experiments.compare.api import compare
from splitveil.experiments.demo import check_demo_folder
from splitveil.experiments.engines.processes import Processes
from splitveil.experiments.folder import check_apart, check_folder
from splitveil.records import RunRecord
from splitveil.specs import DataSpec, read_json


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


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"attacks": 3}', '{"attacks": [{"key": 3}]}', '{"format": 9, "attacks": []}']
)
def test_attacks_of_another_form_are_refused_by_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "attacks.json").write_text(text)
    with pytest.raises(SpecError, match=r"attacks\.json"):
        _ = RunRecord(tmp_path).attacks


def test_a_file_that_is_nested_without_end_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"expected JSON in .*spec\.json"):
        read_json(tmp_path / "spec.json")


def test_an_environment_of_another_form_is_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("[]")
    with pytest.raises(InputError, match=r"env\.json.*list"):
        _ = RunRecord(tmp_path).environment


def test_a_run_that_is_named_twice_is_gathered_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text("{}")
    found = RunRecord.gather([tmp_path / "b", tmp_path, tmp_path / "a"])
    assert [record.name for record in found] == ["b", "a"]


def test_a_file_in_place_of_a_run_is_called_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MissingDataError, match="got a file"):
        RunRecord.find(tmp_path / "notes.txt")


def test_a_run_does_not_go_among_the_pictures(tmp_path: Path) -> None:
    data = DataSpec(source="folder", path=str(tmp_path / "pictures"))
    check_apart(tmp_path / "run", data)
    check_apart(tmp_path / "pictures-run", data)
    for out in (tmp_path / "pictures", tmp_path / "pictures" / "runs" / "a"):
        with pytest.raises(OutputError, match="outside the pictures"):
            check_apart(out, data)


def test_the_demo_goes_into_a_folder_of_its_own(tmp_path: Path) -> None:
    check_demo_folder(tmp_path / "new")
    for name in ("none", "curves"):
        (tmp_path / name).mkdir()
    for name in ("report.html", ".report.html.x1y2", ".DS_Store"):
        (tmp_path / name).touch()
    check_demo_folder(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        check_demo_folder(tmp_path)
    with pytest.raises(OutputError, match="got a file"):
        check_demo_folder(tmp_path / "thesis.tex")


def test_a_comparison_on_no_device_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'tpu9'"):
        compare([], tmp_path / "out", board=None, recipe="tiny", engine=Processes(device="tpu9"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
