"""Jobs in processes of their own, a few at a time: one that fails or crashes costs only itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from splitveil.errors import SplitveilError, UsageError
from splitveil.experiments.engines.jobs import Board, Outcome, Sender, deliver
from splitveil.training.observer import Observer

__all__ = ["available_cpus", "run_jobs", "share_cores"]

_Job = TypeVar("_Job")
_POLL_S = 0.2
_UNBORN = (
    "its process ended with code {code} before it began, and says above why. Each process imports the script that "
    "called: the script must be a file, and must call below  if __name__ == '__main__':"
)


@dataclass(slots=True)
class _Running:
    name: str
    process: BaseProcess
    messages: Connection
    begun: bool = False
    error: str | None = None


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(jobs: int, *, gpu: bool, workers: int | None = None) -> tuple[int, int]:
    """How many processes to run at a time, and torch threads for each of them.

    Small nets gain little from a second thread, so that a core each is the most that a machine gives.

    Args:
        jobs: that there are.
        gpu: whether they run on one; then they take turns.
        workers: processes at a time, where the user chose.

    Example:
        >>> share_cores(3, gpu=False, workers=1)[0]
        1
    """
    cpus = available_cpus()
    count = workers or (1 if gpu else max(1, min(cpus, jobs)))
    return count, max(1, cpus // count)


def run_jobs(
    jobs: Sequence[tuple[str, _Job]],
    work: Callable[[_Job, Observer], None],
    *,
    workers: int,
    threads: int,
    board: Board,
) -> list[Outcome]:
    """Run jobs in up to `workers` processes of `threads` threads each.

    Args:
        jobs: names and what `work` is called with; picklable, as is `work`.
        work: does one job in a fresh process.
        workers: processes at a time.
        threads: of torch, in each.
        board: hears of progress.

    Returns:
        The outcomes in the order of the jobs.

    Raises:
        UsageError: the first process to end never began, as those of a script that calls without a guard.
    """
    runner = _Runner(work, threads, board)
    waiting, outcomes = list(jobs), dict[str, Outcome]()
    try:
        while waiting or runner.running:
            while waiting and len(runner.running) < workers:
                runner.launch(*waiting.pop(0))
            for outcome in runner.step():
                outcomes[outcome.name] = outcome
    finally:
        runner.stop()
    return [outcomes[name] for name, _ in jobs]


class _Runner(Generic[_Job]):
    def __init__(self, work: Callable[[_Job, Observer], None], threads: int, board: Board) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.work, self.threads, self.board = work, threads, board
        self.running: list[_Running] = []
        self.begun = False

    def launch(self, name: str, job: _Job) -> None:
        """Start a process."""
        # a pipe each: a process that is killed while it sends spoils its own messages alone
        reader, writer = self.context.Pipe(duplex=False)
        arguments = (job, self.work, self.threads, writer)
        process = self.context.Process(target=_enter, args=arguments, name=name, daemon=True)
        process.start()
        writer.close()
        self.running.append(_Running(name, process, reader))

    def step(self) -> list[Outcome]:
        """Pass messages on, and take leave of those that have ended."""
        wait([item.process.sentinel for item in self.running], timeout=_POLL_S)
        ended = [item for item in self.running if not item.process.is_alive()]
        for item in self.running:
            self._listen(item)
        outcomes = []
        for item in ended:
            item.process.join()
            code = item.process.exitcode
            if item.error is None and code != 0:
                item.error = self._explain(item, code)
            item.messages.close()
            self.running.remove(item)
            self.board.finish(item.name, item.error)
            outcomes.append(Outcome(item.name, item.error))
        return outcomes

    def _explain(self, item: _Running, code: int | None) -> str:
        """Why a process ended without a word; what befalls the first one befalls all."""
        if item.begun or code is None or code < 0:
            return f"its process ended with code {code}; out of memory, or killed"
        if not self.begun:
            raise UsageError(f"expected a run, got none: {_UNBORN.format(code=code)}")
        return _UNBORN.format(code=code)

    def _listen(self, item: _Running) -> None:
        while True:
            try:
                if not item.messages.poll():
                    return
                kind, values = item.messages.recv()
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
                return
            if kind == "begun":
                item.begun = self.begun = True
            elif kind == "error":
                item.error = values[0]
            else:
                deliver(self.board, item.name, (kind, values))

    def stop(self) -> None:
        """End what still runs; it goes on from its checkpoint next time."""
        for item in self.running:
            item.process.terminate()
        for item in self.running:
            item.process.join(5)
            if item.process.is_alive():
                item.process.kill()
            item.messages.close()


def _enter(job: Any, work: Callable[[Any, Observer], None], threads: int, messages: Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    threading.Thread(target=_follow_parent, daemon=True).start()
    messages.send(("begun", ()))
    import torch

    torch.set_num_threads(threads)
    sender = Sender(messages)
    try:
        work(job, sender)
        sender.flush()
    except SplitveilError as error:
        messages.send(("error", (str(error),)))
    except Exception as error:
        messages.send(("error", (f"{type(error).__name__}: {error}",)))
        raise


def _follow_parent() -> None:
    """A parent that was killed takes its children with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
