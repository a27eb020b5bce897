"""Who watches a long job: the command line draws a bar, a test collects events, by default nobody."""

from __future__ import annotations

from typing import Any

__all__ = ["Observer"]


class Observer:
    """Hears of progress and of events; does nothing unless overridden."""

    def start(self, what: str, total: int, done: int) -> None:
        """A job of `total` steps begins, of which `done` are done already."""

    def advance(self, text: str) -> None:
        """One step is done."""

    def event(self, event: dict[str, Any]) -> None:
        """An epoch, a stage, a warning: what goes into the event log."""

    def log_size(self) -> int:
        """Bytes of the event log so far; a resumed run cuts the log back to what its checkpoint had seen."""
        return 0

    def rewind(self, log_size: int) -> None:
        """Cut the event log back to this size."""

    def stop(self) -> None:
        """The job is over."""
