"""Jobs in processes: their progress arrives, and one that fails costs only itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from splitveil.errors import InputError
from splitveil.experiments.engines.workers import run_jobs
from splitveil.training.observer import Observer


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def start(self, job: str, what: str, total: int, done: int) -> None:
        self.heard.append(("start", job, what, total, done))

    def advance(self, job: str, steps: int, text: str) -> None:
        self.heard.append(("advance", job, steps, text))

    def event(self, job: str, event: dict[str, Any]) -> None:
        self.heard.append(("event", job, event))

    def finish(self, job: str, error: str | None) -> None:
        self.heard.append(("finish", job, error))


def work(job: str, observer: Observer) -> None:
    """What a job asks for."""
    import torch

    observer.start("work", 3, 0)
    for _ in range(3):
        observer.advance("step")
    observer.event({"event": "epoch", "threads": torch.get_num_threads()})
    if job == "refused":
        raise InputError("expected better, got this: do that")
    if job == "broken":
        raise ZeroDivisionError("by zero")
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.long
def test_jobs_end_one_by_one_and_failures_are_told() -> None:
    listener = Listener()
    names = ["fine", "refused", "broken", "killed", "also fine"]
    outcomes = run_jobs([(name, name) for name in names], work, workers=2, threads=1, board=listener)
    assert [item.name for item in outcomes] == names
    errors = {item.name: item.error for item in outcomes}
    assert errors["fine"] is None
    assert errors["also fine"] is None
    assert errors["refused"] == "expected better, got this: do that"
    assert errors["broken"] == "ZeroDivisionError: by zero"
    assert errors["killed"] is not None
    assert "ended with code -9" in errors["killed"]
    for name in ("fine", "also fine", "refused"):
        mine = [item for item in listener.heard if item[1] == name]
        assert mine[0] == ("start", name, "work", 3, 0)
        assert sum(item[2] for item in mine if item[0] == "advance") in (0, 3)
        assert [item[2]["threads"] for item in mine if item[0] == "event"] == [1]
        assert mine[-1] == ("finish", name, errors[name])


CALLER = """
from splitveil.experiments.engines.workers import run_jobs
class Board:
    def __getattr__(self, name):
        return lambda *_: None
def work(job, observer):
    pass
run_jobs([(str(number), number) for number in range(5)], work, workers=1, threads=1, board=Board())
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_a_script_without_a_guard_is_told_once(tmp_path: Path, stdin: bool) -> None:
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    said = subprocess.run(
        [sys.executable, "-" if stdin else str(script)],
        input=CALLER if stdin else None,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert said.returncode == 1
    last = said.stderr.strip().splitlines()[-1]
    assert last.startswith("splitveil.errors.UsageError: expected a run, got none")
    assert "if __name__ == '__main__':" in last
    assert "must be a file" in last
    assert "out of memory" not in said.stderr
    assert said.stderr.count("UsageError: expected") == 1  # the first process ends it, not each of five


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from splitveil.experiments.engines.workers import run_jobs\n"
        "class Board:\n"
        "    def __getattr__(self, name):\n"
        "        return lambda *_: None\n"
        "def work(job, observer):\n"
        "    Path(job).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_jobs([('sleeper', sys.argv[1])], work, workers=1, threads=1, board=Board())\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(note)])
    try:
        deadline = time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(note.read_text())
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")
