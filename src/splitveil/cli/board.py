"""Progress of many jobs on a terminal: one bar for all, one for each that runs."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["QuietBoard", "TerminalBoard", "make_board"]


def make_board(total: int) -> QuietBoard:
    """A board for the terminal, or one that is silent but for failures and warnings."""
    return TerminalBoard(total) if sys.stderr.isatty() else QuietBoard()


class QuietBoard:
    """Failures and warnings only."""

    def __enter__(self) -> QuietBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, job: str, what: str, total: int, done: int) -> None:
        """A part of a job begins."""

    def advance(self, job: str, steps: int, text: str) -> None:
        """A job has moved on."""

    def event(self, job: str, event: dict[str, Any]) -> None:
        """Print a warning."""
        if event.get("event") == "warning":
            self.say(f"warning: {job}: {event['text']}")

    def finish(self, job: str, error: str | None) -> None:
        """Print a failure."""
        if error is not None:
            self.say(f"failed: {job}: {error}")

    def say(self, text: str) -> None:
        """A line on stderr."""
        print(text, file=sys.stderr)

    def close(self) -> None:
        """Nothing to take down."""


class TerminalBoard(QuietBoard):
    """Bars on stderr.

    Args:
        total: jobs.
    """

    def __init__(self, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<40}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._all = self._progress.add_task("runs", total=total, note="")
        self._jobs: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}

    def __enter__(self) -> TerminalBoard:
        self._progress.start()
        return self

    def start(self, job: str, what: str, total: int, done: int) -> None:
        """Show a bar for this part of the job."""
        self._drop(job)
        self._jobs[job] = self._progress.add_task(f"{job}: {what}", total=total, completed=done, note="")

    def advance(self, job: str, steps: int, text: str) -> None:
        """Move the bar."""
        if job in self._jobs:
            self._progress.update(self._jobs[job], advance=steps, note=f"{text} {self._notes.get(job, '')}")

    def event(self, job: str, event: dict[str, Any]) -> None:
        """Note the accuracy; print warnings."""
        super().event(job, event)
        if event.get("event") == "epoch":
            self._notes[job] = f"validation {100 * event['val_accuracy']:.1f} %"

    def finish(self, job: str, error: str | None) -> None:
        """Take the bar of the job away and count it."""
        super().finish(job, error)
        self._drop(job)
        self._progress.advance(self._all)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Take the bars down."""
        self._progress.stop()

    def _drop(self, job: str) -> None:
        task = self._jobs.pop(job, None)
        if task is not None:
            self._progress.remove_task(task)
