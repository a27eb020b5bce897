"""What takes minutes, in steps that are kept, and that end when the time is up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splitveil.files import write_text
from splitveil.training.checkpoint import CheckpointStore
from splitveil.training.observer import Observer

__all__ = ["Steps", "TimeIsUpError", "Timed", "check_time", "is_over"]


class TimeIsUpError(Exception):
    """What was at work has been saved not long ago, and goes on from there."""


def is_over(until: float | None) -> bool:
    """Whether the time is up: ``until`` is of the monotonic clock, None for never."""
    return until is not None and time.monotonic() >= until


def check_time(until: float | None) -> None:
    """Raise `TimeIsUpError` where the time is up."""
    if is_over(until):
        raise TimeIsUpError


class Timed(Observer):
    """Another observer, and an end."""

    def __init__(self, inner: Observer, until: float | None) -> None:
        self._inner, self._until = inner, until

    def start(self, what: str, total: int, done: int) -> None:
        self._inner.start(what, total, done)

    def advance(self, text: str) -> None:
        self._inner.advance(text)
        check_time(self._until)

    def event(self, event: dict[str, Any]) -> None:
        self._inner.event(event)

    def stop(self) -> None:
        self._inner.stop()


class Steps:
    """Results of steps, each in a file of its own, so that a process that is stopped costs one of them.

    Args:
        folder: of the files.
        seal: of all that decides the results; a file of another one is not read.
        until: when no step begins any more.
    """

    def __init__(self, folder: Path, seal: str, until: float | None) -> None:
        self.folder, self.until, self.seconds = folder, until, dict[str, float]()
        self._seal = seal

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        """What the step returns, now or in an earlier process; it must be JSON."""
        file = self.folder / f"{name}.json"
        held = json.loads(file.read_text()) if file.is_file() else {}
        if held.get("settings") != self._seal:
            held = {"settings": self._seal, "seconds": 0.0}
        if "found" not in held:
            check_time(self.until)
            begun = time.monotonic()
            try:
                held["found"] = step()
            finally:
                held["seconds"] += time.monotonic() - begun
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(held, allow_nan=False))
        self.seconds[name] = held["seconds"]
        return held["found"]

    def store(self, name: str) -> CheckpointStore:
        """Where a long step keeps its state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return CheckpointStore(self.folder / f"{name}.checkpoint.safetensors", self._seal)
