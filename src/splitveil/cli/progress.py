"""Progress on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from splitveil.training.observer import Observer

__all__ = ["Bar", "Quiet"]


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-", style="cyan")


class Quiet(Observer):
    """Warnings only.

    Args:
        label: names the job.
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def event(self, event: dict[str, Any]) -> None:
        """Print a warning."""
        if event.get("event") == "warning":
            print(f"warning: {self.label}: {event['text']}", file=sys.stderr)


class Bar(Quiet):
    """A bar per job on stderr."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._progress: Progress | None = None
        self._note = ""

    def start(self, what: str, total: int, done: int) -> None:
        """Show the bar."""
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._progress.add_task(f"{self.label}: {what}", total=total, completed=done, note="")

    def advance(self, text: str) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], advance=1, note=f"{text} {self._note}")

    def event(self, event: dict[str, Any]) -> None:
        """Show the last validation; print warnings."""
        super().event(event)
        if event.get("event") == "epoch":
            self._note = f"validation {100 * event['val_accuracy']:.1f} %"

    def stop(self) -> None:
        """Take the bar down."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
