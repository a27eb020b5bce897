"""Comparisons and audits on a local Ray instance: workers that die, folders that are not shared, Ctrl-C."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_jobs import Chore

from splitveil.audit.many import audit_runs
from splitveil.errors import MissingDataError, SpecError
from splitveil.experiments.compare.api import compare, plan_cells
from splitveil.experiments.compare.record import ComparisonRecord
from splitveil.experiments.compare.run import run_cells
from splitveil.experiments.engines.cluster import Cluster
from splitveil.experiments.engines.jobs import Job
from splitveil.experiments.engines.processes import Processes
from splitveil.experiments.engines.shipping import Token
from splitveil.records import RunRecord
from splitveil.specs import DataSpec
from splitveil.threats import ThreatModel

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

GRID = {"gaussian.noise_std": [0.1, 0.8], "cem.noise_std": [0.1]}
SMALL: dict[str, Any] = {
    "data": "digits",
    "model_kwargs": {"width": 0.5},
    "training": {"epochs": 3, "batch_size": 32},
    "attack": {"epochs": 3, "channels": 8, "blocks": 1},
    "limit": 600,
}
WHITE_BOX = ThreatModel.preset("white_box")
DIGITS = DataSpec(source="digits", limit=400)


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.steps: dict[str, int] = {}
        self.warnings: list[tuple[str, str]] = []
        self.finished: dict[str, str | None] = {}

    def start(self, job: str, what: str, total: int, done: int) -> None:
        self.started.append(job)

    def advance(self, job: str, steps: int, text: str) -> None:
        self.steps[job] = self.steps.get(job, 0) + steps

    def event(self, job: str, event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            self.warnings.append((job, event["text"]))

    def finish(self, job: str, error: str | None) -> None:
        self.finished[job] = error


@pytest.fixture(scope="module")
def instance() -> Iterator[None]:
    """A Ray instance of two cores with a small store."""
    with pytest.MonkeyPatch.context() as patch:
        places = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))  # workers import the jobs from here
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine its workers would starve
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for the processes that it ends
            ray.shutdown()
            gc.collect()


def worker_of(name: str) -> int | None:
    """The process of our instance that does this job: a grandchild whose title Ray sets to the name of its task."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _title(entry).startswith(f"ray::{name}") and _is_ours(int(entry.name)):
            return int(entry.name)
    return None


def _title(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _is_ours(process: int) -> bool:
    while process > 1:
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if process == os.getpid():
            return True
    return False


def kill_midway(runs: Path, names: list[str], killed: list[str]) -> None:
    """Kill the worker of one of these runs once it is in the middle of its training."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not killed:
        for name in names:
            begun = (runs / name / "events.jsonl").is_file() and not (runs / name / "evaluation.json").is_file()
            worker = worker_of(name) if begun else None
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                killed.append(name)
                break
        time.sleep(0.01)


def numbers(run: Path) -> dict[str, Any]:
    """What a run says of its model and of the attack on it, without how long it took."""
    record = RunRecord.open(run)
    assert record.evaluation is not None
    plain = [record.evaluation.model_dump(), *(attack.model_dump() for attack in record.attacks)]
    for item in plain:
        item.pop("elapsed_s")
        for fact in [key for key in item.get("facts", {}) if key.endswith("_s")]:
            item["facts"].pop(fact)
    return {"spec": record.spec.model_dump(), "numbers": plain}


@pytest.fixture(scope="module")
def comparison(instance: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Listener, list[str]]:
    """Twelve runs, and one worker that was killed in the middle of a training."""
    out, board, killed = tmp_path_factory.mktemp("ray") / "out", Listener(), list[str]()
    cells = plan_cells(("none", "gaussian", "cem"), grid=GRID, seeds=3, recipe="tiny", **SMALL)
    assert len(cells) == 12
    names = [cell.name for cell in cells[3:]]
    killer = threading.Thread(target=kill_midway, args=(out / "runs", names, killed))
    killer.start()
    compare(cells, out, board=board, recipe="tiny", engine=Cluster())
    killer.join()
    return out, board, killed


def test_twelve_runs_with_a_killed_worker_end_with_twelve_records(
    comparison: tuple[Path, Listener, list[str]],
) -> None:
    out, board, killed = comparison
    record = ComparisonRecord.open(out)
    assert len(killed) == 1
    assert [name for name, text in board.warnings if "its worker died; try 2 of 3" in text] == killed
    assert record.failed == {}
    runs = [name for point in record.points for name in point.runs.values()]
    assert len(runs) == len(set(runs)) == 12
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(runs)
    for name in runs:
        found = RunRecord.open(out / "runs" / name)
        assert found.finished
        assert len(found.attacks) == 1
    assert board.finished == dict.fromkeys(runs)
    assert set(board.started) == set(runs)


def test_its_records_are_those_of_local_processes(comparison: tuple[Path, Listener, list[str]], tmp_path: Path) -> None:
    out, _, killed = comparison
    cells = plan_cells(("none", "gaussian", "cem"), grid=GRID, seeds=3, recipe="tiny", **SMALL)
    chosen = [cell for cell in cells if cell.name in killed] + cells[:1]
    run_cells(chosen, tmp_path, threat=WHITE_BOX, engine=Processes(workers=2), board=Listener())
    for cell in chosen:
        assert numbers(tmp_path / cell.name) == numbers(out / "runs" / cell.name)


def test_without_shared_storage_the_files_travel(
    comparison: tuple[Path, Listener, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = comparison
    monkeypatch.setattr(Token, "write", lambda self, parent: parent.mkdir(parents=True, exist_ok=True))
    [cell] = plan_cells(("none",), grid={}, seeds=1, recipe="tiny", **SMALL)
    run_cells([cell], tmp_path, threat=WHITE_BOX, engine=Cluster(), board=Listener())
    here, there = tmp_path / cell.name, out / "runs" / cell.name

    def names(folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    assert names(here) == names(there)
    assert numbers(here) == numbers(there)
    weights = (here / "weights.safetensors").stat()
    (here / "attacks.json").unlink()
    run_cells([cell], tmp_path, threat=WHITE_BOX, engine=Cluster(), board=Listener())  # the weights travel out
    assert numbers(here) == numbers(there)
    assert (here / "weights.safetensors").stat().st_mtime_ns == weights.st_mtime_ns


def test_failures_cost_only_themselves(instance: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(name: str, **told: Any) -> Job:
        notes = tmp_path / "notes" / name
        notes.mkdir(parents=True)
        return Job(name, tmp_path / "runs" / name, DIGITS, Chore(notes, **told), told.get("beside"))

    jobs = [
        job("fine"),
        job("dies-once", deaths=1),
        job("always-dies", deaths=9),
        job("refused", error="refused"),
        job("broken", error="broken"),
    ]
    board = Listener()
    outcomes = Cluster(retries=1).run(jobs, board, total=len(jobs))
    errors = {item.name: item.error for item in outcomes}
    assert [item.name for item in outcomes] == [item.name for item in jobs]
    assert errors["fine"] is errors["dies-once"] is None
    assert str(errors["always-dies"]).startswith("its worker died 2 times; out of memory, or killed")
    assert errors["refused"] == "expected better, got this: do that"
    assert errors["broken"] == "ZeroDivisionError: by zero"
    tries = {item.name: len(list((tmp_path / "notes" / item.name).iterdir())) for item in jobs}
    assert tries == {"fine": 1, "dies-once": 2, "always-dies": 2, "refused": 1, "broken": 1}
    assert board.finished == errors
    assert json.loads((tmp_path / "runs" / "fine" / "evaluation.json").read_text()) == "180 cpu False"
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]

    monkeypatch.setattr(Token, "write", lambda self, parent: parent.mkdir(parents=True, exist_ok=True))
    [outcome] = Cluster().run([job("refused-away", error="refused")], board, total=1)
    assert outcome.error == errors["refused"]
    assert (tmp_path / "runs" / "refused-away" / "spec.json").is_file()  # what it wrote before comes back, too


@pytest.mark.parametrize("shared", [True, False])
def test_a_second_folder_can_be_read_and_stays_as_it_is(
    instance: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    if not shared:
        monkeypatch.setattr(Token, "write", lambda self, parent: parent.mkdir(parents=True, exist_ok=True))
    (tmp_path / "notes").mkdir()
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "spec.json").write_text("{}")
    job = Job("reads", tmp_path / "runs" / "reads", DIGITS, Chore(tmp_path / "notes"), tmp_path / "twin")
    [outcome] = Cluster().run([job], Listener(), total=1)
    assert outcome.error is None
    assert json.loads((job.folder / "evaluation.json").read_text()) == "180 cpu True"
    assert [path.name for path in (tmp_path / "twin").iterdir()] == ["spec.json"]


def test_audits_on_ray_lie_in_the_folders_of_their_runs(comparison: tuple[Path, Listener, list[str]]) -> None:
    out, _, _ = comparison
    records = [RunRecord.open(path) for path in sorted((out / "runs").iterdir()) if path.name[:4] in ("none", "cem-")]
    records = [record for record in records if record.spec.seed == 0]
    found, failed = audit_runs(records, engine=Cluster(), board=Listener(), suite="quick", recipe="tiny")
    assert failed == {}
    assert [item.subject for item in found] == [str(record.path) for record in records]
    for record, item in zip(records, found, strict=True):
        assert (record.path / "audit.json").is_file()
        assert {attack.attack.name for attack in item.attacks} == {"decoder", "linear"}
        proof = next(control for control in item.controls if control.name == "attack works")
        assert "undefended twin" in proof.detail or proof.state == "fail"


def test_what_no_machine_has_is_said_at_once(instance: None, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    job = Job("wide", tmp_path / "runs" / "wide", DIGITS, Chore(tmp_path / "notes"))
    with pytest.raises(SpecError, match="expected a machine with 64 CPUs and 0 GPUs for each run, got at most 2"):
        Cluster(cpus_per_run=64).run([job], Listener(), total=1)
    assert not (tmp_path / "runs" / "wide").exists()


def command(out: Path, *more: str) -> list[str]:
    words = ["none", "gaussian", "--limit", "600", "--seeds", "3", "--model-param", "width=0.5", "--device", "cpu"]
    small = ["--set", "epochs=3", "--set", "batch_size=32", "-p", "epochs=3", "-p", "channels=8", "-p", "blocks=1"]
    return [sys.executable, "-m", "splitveil", "compare", *words, *small, "--out", str(out), *more]


def test_ctrl_c_leaves_what_is_finished_and_local_processes_do_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(out, "--engine", "ray"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("runs/*/attacks.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted: what is finished or checkpointed stays" in said
    done = {path.parent.name: numbers(path.parent) for path in out.glob("runs/*/attacks.json")}
    assert done
    assert not list(out.glob("runs/.shared-*"))
    again = subprocess.run(command(out, "--workers", "2"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(list(out.glob("runs/*/attacks.json"))) == 6
    for name, before in done.items():
        assert numbers(out / "runs" / name) == before


def test_an_address_without_a_cluster_is_said_so(tmp_path: Path) -> None:
    said = subprocess.run(
        command(tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert said.returncode == MissingDataError.exit_code, said.stderr
    assert "expected a Ray cluster at '127.0.0.1:1', got none" in said.stderr
    assert "Traceback" not in said.stderr
