"""Jobs of a moment, for workers of Ray to import."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from splitveil.errors import InputError
from splitveil.experiments.engines.jobs import Desk


@dataclass(frozen=True)
class Chore:
    """Counts the pictures; dies, or fails, as it is told.

    Args:
        notes: folder where every try leaves a note.
        deaths: how many tries die.
        error: what it fails of.
    """

    notes: Path
    deaths: int = 0
    error: str | None = None

    def __call__(self, desk: Desk) -> None:
        (self.notes / f"try-{os.getpid()}-{len(list(self.notes.iterdir()))}").touch()
        desk.observer.start("count", 2, 0)
        desk.observer.advance("one")
        (desk.folder / "spec.json").parent.mkdir(parents=True, exist_ok=True)
        (desk.folder / "spec.json").write_text('{"begun": true}')
        if len(list(self.notes.iterdir())) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error == "refused":
            raise InputError("expected better, got this: do that")
        if self.error == "broken":
            raise ZeroDivisionError("by zero")
        seen = f"{len(desk.data.splits.train)} {desk.device} {desk.beside is not None}"
        (desk.folder / "evaluation.json").write_text(f'"{seen}"')
        if desk.beside is not None:
            (desk.beside / "env.json").write_text("lost")
