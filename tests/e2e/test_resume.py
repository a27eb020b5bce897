"""A run that was killed goes on, and ends with the same bits as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("killed_run.py")
FILES = ("spec.json", "architecture.json", "weights.safetensors", "events.jsonl")


def run(out: Path, moment: str = "never", seed: int = 0) -> int:
    """The exit code of a training process."""
    command = [sys.executable, "-W", "error", str(DRIVER), str(out), str(seed), moment]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode in (0, -signal.SIGKILL), finished.stderr
    return finished.returncode


def contents(out: Path) -> dict[str, bytes]:
    """The files that have to be the same bit for bit."""
    return {name: (out / name).read_bytes() for name in FILES}


def evaluation(out: Path) -> dict[str, Any]:
    """What was measured, but for the time it took."""
    values: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    values.pop("elapsed_s")
    return values


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(out) == 0
    return out


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(("step:11",), id="in mid-epoch"),
        pytest.param(("saving:5",), id="while saving", marks=pytest.mark.long),
        pytest.param(("step:2", "weights"), id="in the first epoch and before the evaluation", marks=pytest.mark.long),
    ],
)
def test_killed_runs_end_with_the_same_bits(whole: Path, tmp_path: Path, moments: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    for moment in moments:
        assert run(out, moment) == -signal.SIGKILL
        assert not (out / "evaluation.json").exists()
    assert run(out) == 0
    assert contents(out) == contents(whole)
    assert evaluation(out) == evaluation(whole)
    assert not (out / "state").exists()


@pytest.mark.long
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(whole: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    assert run(again) == run(other, seed=1) == 0
    assert contents(again) == contents(whole)
    assert evaluation(again) == evaluation(whole)
    assert contents(other)["weights.safetensors"] != contents(whole)["weights.safetensors"]
    assert evaluation(other)["score"] != evaluation(whole)["score"]


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert run(whole) == 0
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before
