"""Jobs and who runs them: one narrow seam, with local processes on one side of it and a cluster on the other."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from splitveil.training.observer import Observer

if TYPE_CHECKING:
    from splitveil.experiments.training import LoadedData
    from splitveil.specs import DataSpec

__all__ = ["Board", "Desk", "Engine", "Job", "Message", "Outcome", "Sender", "SilentBoard", "borrowed", "deliver"]

Message = tuple[str, tuple[Any, ...]]
"""What a job says of its progress: a method of `Board`, and its arguments behind the name of the job."""

_SEND_EVERY_S = 0.2


class Board(Protocol):
    """Who watches many jobs at once."""

    def start(self, job: str, what: str, total: int, done: int) -> None: ...

    def advance(self, job: str, steps: int, text: str) -> None: ...

    def event(self, job: str, event: dict[str, Any]) -> None: ...

    def finish(self, job: str, error: str | None) -> None: ...


class SilentBoard:
    """Watches, and says nothing."""

    def start(self, job: str, what: str, total: int, done: int) -> None:
        """A part of a job begins."""

    def advance(self, job: str, steps: int, text: str) -> None:
        """A job has moved on."""

    def event(self, job: str, event: dict[str, Any]) -> None:
        """An epoch, or a warning."""

    def finish(self, job: str, error: str | None) -> None:
        """A job has ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: without an error, or with its text."""

    name: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What a job is given where it runs.

    Args:
        folder: where its files lie, and where it writes.
        data: the pictures of its spec.
        observer: hears of progress.
        device: ``cuda``, ``cpu`` …; None for the first CUDA device or the CPU.
        beside: a second folder that it reads, or a copy of it: what is written there is lost.
    """

    folder: Path
    data: LoadedData
    observer: Observer
    device: str | None
    beside: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work that can be done anywhere.

    Args:
        name: unique among the jobs that run together.
        folder: of its files.
        data: the pictures that it needs.
        work: does it; picklable.
        beside: a second folder that it reads.
    """

    name: str
    folder: Path
    data: DataSpec
    work: Callable[[Desk], None]
    beside: Path | None = None


class Engine(Protocol):
    """Runs jobs, a few at a time: one that fails or whose process dies costs only itself."""

    def run(self, jobs: Sequence[Job], board: Board, *, total: int) -> list[Outcome]:
        """The outcomes in the order of the jobs; on Ctrl-C, what has ended stands in its folder.

        Args:
            jobs: what is left to do.
            board: hears of progress.
            total: jobs of the whole, of which some may be done: threads, and so the last bits of a number, do not
                depend on how many are left.
        """
        ...


class _Messages(Protocol):
    def send(self, message: Message) -> object: ...


class Sender(Observer):
    """Passes progress on to who started the job, a few messages a second."""

    def __init__(self, messages: _Messages) -> None:
        self.messages = messages
        self.steps, self.text, self.sent = 0, "", time.monotonic()

    def start(self, what: str, total: int, done: int) -> None:
        """A part begins."""
        self.flush()
        self.messages.send(("start", (what, total, done)))

    def advance(self, text: str) -> None:
        """Count, and send now and then."""
        self.steps, self.text = self.steps + 1, text
        if time.monotonic() - self.sent >= _SEND_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        if self.steps:
            self.messages.send(("advance", (self.steps, self.text)))
        self.steps, self.sent = 0, time.monotonic()

    def event(self, event: dict[str, Any]) -> None:
        """Send epochs and warnings."""
        if event.get("event") in ("epoch", "warning"):
            self.messages.send(("event", (event,)))


def deliver(board: Board, job: str, message: Message) -> None:
    """Tell a board what a job said."""
    kind, values = message
    heard: dict[str, Callable[..., None]] = {"start": board.start, "advance": board.advance, "event": board.event}
    heard[kind](job, *values)


@contextmanager
def borrowed(beside: Path | None, folder: Path) -> Iterator[Path | None]:
    """A copy of the second folder of a job; the folder itself where that is the job's own.

    Several jobs may read the same folder at once, and each may write to what it reads.
    """
    if beside is None or beside.resolve() == folder.resolve():
        yield beside
        return
    with tempfile.TemporaryDirectory(prefix="splitveil-") as scratch:
        yield Path(shutil.copytree(beside, Path(scratch) / beside.name))
