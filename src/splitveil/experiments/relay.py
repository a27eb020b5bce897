"""What a process tells the one that started it: progress, events, and why it failed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from splitveil.training.observer import Observer

__all__ = ["Relay", "Sender"]

_PAUSE_S = 0.2


class Sender(Observer):
    """In the started process: an observer that passes on what it hears.

    Args:
        pipe: to the `Relay`.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self, what: str, total: int, done: int) -> None:
        """Pass on."""
        self._pipe.send(("start", what, total, done))

    def advance(self, text: str) -> None:
        """Pass on."""
        self._pipe.send(("advance", text))

    def event(self, event: dict[str, Any]) -> None:
        """Pass on."""
        self._pipe.send(("event", event))

    def stop(self) -> None:
        """Pass on."""
        self._pipe.send(("stop",))

    def fault(self, name: str, text: str) -> None:
        """Say which error ends this process."""
        self._pipe.send(("fault", name, text))


class Relay:
    """In the starting process: tells an observer what the senders hear, in a thread, while it is entered.

    Args:
        pipes: one per process.
        observer: hears all.
    """

    def __init__(self, pipes: Sequence[Connection], observer: Observer) -> None:
        self._pipes, self._observer = list(pipes), observer
        self._done = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.faults: dict[int, tuple[str, str]] = {}

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what the observer raised."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        open_ = dict(zip(self._pipes, range(len(self._pipes)), strict=True))
        while open_:
            ready = wait(list(open_), timeout=_PAUSE_S)
            if not ready and self._done.is_set():
                return
            for pipe in [pipe for pipe in open_ if pipe in ready]:
                try:
                    name, *arguments = pipe.recv()
                except (EOFError, OSError):  # the process is gone
                    del open_[pipe]
                    continue
                self._tell(open_[pipe], name, arguments)

    def _tell(self, rank: int, name: str, arguments: list[Any]) -> None:
        if name == "fault":
            self.faults[rank] = (arguments[0], arguments[1])
        elif self._failure is None:
            try:
                getattr(self._observer, name)(*arguments)
            except Exception as error:  # raised where the work was asked for, not in this thread
                self._failure = error
