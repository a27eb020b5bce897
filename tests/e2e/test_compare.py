"""``splitveil compare`` on a few digits: curves, deltas, controls, the page; killed and failed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from splitveil.experiments.compare.record import ComparisonRecord

WORDS = [
    *("none", "gaussian", "cem"),
    *("--limit", "600", "--seeds", "2", "--workers", "2", "--device", "cpu"),
    *("--grid", "gaussian.noise_std=0.1,0.8", "--grid", "cem.weight=0.5", "--grid", "cem.noise_std=0.1"),
    *("--model-param", "width=0.5", "--set", "epochs=3", "--set", "batch_size=32"),
    *("-p", "epochs=3", "-p", "channels=8", "-p", "blocks=1"),
]
RUNS = 8


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "splitveil.cli", "compare", *WORDS, "--out", str(out), *more]


def numbers(out: Path) -> dict[str, Any]:
    record = ComparisonRecord.open(out)
    return {point.label: (point.accuracy, point.mse, point.val_mse, point.selected) for point in record.points}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A comparison that nothing interrupted, and what it printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    said = subprocess.run(command(out, "--json"), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return out, json.loads(said.stdout)


@pytest.mark.long
def test_all_points_stand_in_the_record(finished: tuple[Path, dict[str, Any]]) -> None:
    out, said = finished
    record = ComparisonRecord.open(out)
    assert [point.label for point in record.points] == [
        "none",
        "gaussian noise_std=0.1",
        "gaussian noise_std=0.8",
        "cem noise_std=0.1, weight=0.5",
    ]
    assert record.seeds == (0, 1)
    assert len(list((out / "runs").iterdir())) == RUNS
    assert record.failed == {}
    assert record.selected_on == "validation"
    [delta] = record.deltas
    assert (delta.reference, delta.other) == ("gaussian", "cem")
    assert (delta.verdict == "delta") == (delta.mse_db is not None)
    assert said["points"] == json.loads(record.model_dump_json())["points"]
    for point in record.points:
        assert point.accuracy.low <= point.accuracy.mean <= point.accuracy.high
        assert point.mse.low <= point.mse.mean <= point.mse.high
        scores = [json.loads((out / "runs" / name / "evaluation.json").read_text()) for name in point.runs.values()]
        assert point.accuracy.mean == pytest.approx(sum(item["score"]["result"]["mean"] for item in scores) / 2)


@pytest.mark.long
def test_weak_attackers_make_it_invalid_and_strict_says_so(finished: tuple[Path, dict[str, Any]]) -> None:
    out, said = finished
    assert {check["outcome"] for check in said["checks"]} & {"fail"}
    again = subprocess.run(command(out, "--strict"), capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "this comparison is invalid" in again.stderr
    assert said["status"] == "invalid"
    assert "INVALID" in again.stdout


@pytest.mark.long
def test_the_page_holds_the_curve_and_the_delta(finished: tuple[Path, dict[str, Any]]) -> None:
    page = (finished[0] / "report.html").read_text()
    for part in (
        "The trade",
        "At equal accuracy",
        "All points",
        "Controls of the comparison",
        "noise_std=0.8",
        "At equal accuracy, the attacker on",
    ):
        assert part in page
    assert "https://" not in page


@pytest.mark.long
def test_the_same_command_runs_nothing_again(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    expected = numbers(out)
    subprocess.run(command(out), capture_output=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()} == before
    assert numbers(out) == expected


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_between_and_within_runs_it_goes_on_to_the_same_numbers(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def kill_when(done: int) -> None:
        """Kill the parent when so many runs are attacked and another one has begun."""
        parent = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if len(list(out.glob("runs/*/attacks.json"))) >= done and len(list(out.glob("runs/*/spec.json"))) > done:
                break
            time.sleep(0.02)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert not (out / "comparison.json").exists()

    kill_when(0)
    kill_when(3)
    subprocess.run(command(out), capture_output=True, check=True)
    assert numbers(out) == numbers(finished[0])


@pytest.mark.long
def test_runs_that_fail_are_listed_one_by_one(tmp_path: Path) -> None:
    words = ["compare", "none", "gaussian", "--limit", "600", "--seeds", "1", "--out", str(tmp_path / "out")]
    diverge = ["--set", "lr=1e30", "--set", "clip_norm=null", "--set", "epochs=2"]
    said = subprocess.run(
        [sys.executable, "-m", "splitveil.cli", *words, *diverge], capture_output=True, text=True, check=False
    )
    assert said.returncode == 3, said.stderr
    assert "expected a run that finished, got 2 that failed" in said.stderr
    assert said.stderr.count("expected a finite loss") == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-p", "epochz=3"], "did you mean 'epochs'"),
        (["-p", "batch_size=1"], "batch_size"),
        (["--threat", "query_free"], "pairs"),
        (["--model-param", "widht=1"], "did you mean 'width'"),
        (["--grid", "nosie_std=1"], "did you mean 'noise_std'"),
        (["--seeds", "0"], "at least 1 seed"),
    ],
)
def test_faults_are_found_before_anything_runs(tmp_path: Path, words: list[str], part: str) -> None:
    from typer.testing import CliRunner

    from splitveil.cli import app

    said = CliRunner().invoke(app, ["compare", "none", "gaussian", "--out", str(tmp_path / "out"), *words])
    assert part in str(said.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "runs").mkdir()
    said = subprocess.run(command(tmp_path), capture_output=True, text=True, check=False)
    assert said.returncode == 3
    assert "notes.txt" in said.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "runs"]
