"""Training on several devices: the same run as on one, killed and gone on with, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from splitveil.errors import InputError, MissingExtraError, TrainingError, UsageError
from splitveil.experiments import devices as devices_module
from splitveil.experiments.devices import check_devices
from splitveil.experiments.training import train_run
from splitveil.records import RunRecord
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.training.observer import Observer

SPEC = RunSpec(
    data=DataSpec(source="digits", limit=300),
    model=ModelSpec(factory="splitveil.nets.small:small", kwargs={"width": 0.5}),
    defense=PlugInSpec(name="cem", params={"noise_std": 0.1, "weight": 1.0, "clusters": 2}),
    training=TrainingSpec(epochs=3, batch_size=32, lr=0.01, augment=AugmentSpec(crop=1)),
)


class Heard(Observer):
    """Keeps what it hears; may kill a process after so many steps."""

    def __init__(self, last: int | None = None) -> None:
        self.steps, self.epochs, self.last, self.started = 0, list[dict[str, Any]](), last, list[tuple[str, int, int]]()

    def start(self, what: str, total: int, done: int) -> None:
        self.started.append((what, total, done))

    def advance(self, text: str) -> None:
        self.steps += 1
        if self.steps == self.last:
            os.kill(_children()[-1], signal.SIGKILL)

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            self.epochs.append(event)


def _children() -> list[int]:
    """Trainings that this process has started, not what multiprocessing keeps beside them."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    pids = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    return [pid for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_what_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="at least one device, got 0"):
        check_devices(0, None, None)
    with pytest.raises(UsageError, match="either device 'cuda:0' or devices"):
        check_devices(2, None, "cuda:0")
    with pytest.raises(UsageError, match="expected the accelerator cpu or gpu, got 'tpu'"):
        check_devices(1, "tpu", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected 64 GPUs, got \d+ here: ask for fewer"):
        check_devices(64, "gpu", None)
    monkeypatch.setattr(devices_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'splitveil\[devices\]'"):
        check_devices(2, "cpu", None)
    assert check_devices(1, None, "cpu") == "cpu"
    assert check_devices(1, "gpu", None) == "cuda"
    assert check_devices(1, None, None) is None


def test_nothing_is_written_where_devices_are_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 64 GPUs"):
        train_run(SPEC, tmp_path / "run", devices=64, accelerator="gpu")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Heard]:
    """A run on two devices that nothing interrupted."""
    pytest.importorskip("lightning_fabric")
    out, heard = tmp_path_factory.mktemp("two") / "run", Heard()
    train_run(SPEC, out, observer=heard, devices=2, accelerator="cpu")
    return out, heard


@pytest.mark.long
def test_two_devices_make_the_run_that_one_makes(two: tuple[Path, Heard], tmp_path: Path) -> None:
    out, heard = two
    one = train_run(SPEC, tmp_path / "one", device="cpu").evaluation
    both = RunRecord.open(out).evaluation
    assert [epoch["epoch"] for epoch in heard.epochs] == [0, 1, 2]
    assert heard.started[-1] == ("train", heard.steps, 0)
    assert one is not None
    assert both is not None
    assert both.accuracy.mean == pytest.approx(one.accuracy.mean, abs=0.02)
    for alone, together in zip(_weights(tmp_path / "one"), _weights(out), strict=True):
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)
    assert json.loads((out / "env.json").read_text())["processes"] == 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_process_is_named_and_the_run_goes_on(two: tuple[Path, Heard], tmp_path: Path) -> None:
    whole, out = two[0], tmp_path / "killed"
    with pytest.raises(TrainingError, match=r"was killed \(SIGKILL\).*run the same again"):
        train_run(SPEC, out, observer=Heard(last=7), devices=2, accelerator="cpu")
    assert (out / "state" / "checkpoint.safetensors").is_file()
    train_run(SPEC, out, devices=2, accelerator="cpu")
    for name in ("weights.safetensors", "events.jsonl", "spec.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}


def _weights(out: Path) -> list[torch.Tensor]:
    state = load_file(out / "weights.safetensors")
    return [state[name] for name in sorted(state)]


@pytest.mark.long
def test_the_command_trains_on_two_devices(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    command = [sys.executable, "-m", "splitveil", "train", "--out", str(tmp_path / "run"), "--defense", "gaussian"]
    options = ["--limit", "200", "--set", "epochs=1", "--devices", "2", "--accelerator", "cpu", "--json"]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["score"]["result"]["n"] > 0
    assert "Traceback" not in answer.stderr
