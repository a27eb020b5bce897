"""Dynamic batching: requests that wait together run together, and none of them notices.

```
submit ─► queue ─►[ a slot is free and (full batch, or the first has waited max_delay_s) ]─► run in a thread ─► futures
```
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitveil.cloud.problems import HttpError

__all__ = ["BatchObserver", "Batcher", "BatcherSettings", "Run"]

Run = Callable[[NDArray[Any]], NDArray[Any]]

_PATIENCE = 1 / 6


@dataclass(frozen=True, slots=True)
class BatcherSettings:
    """How requests are put together.

    Args:
        max_batch: rows that run together.
        max_delay_s: that the first of a batch waits for others. While other batches run, a slot that gets free waits
            for a full batch, a sixth of the time that one takes at most: those who have just been answered ask again,
            and a small batch beside others would slow them down. 0: never.
        max_queue_rows: that wait at most; more are told to come again.
        slots: batches that run at the same time, each in a thread of its own.
    """

    max_batch: int = 16
    max_delay_s: float = 0.002
    max_queue_rows: int = 1024
    slots: int = 1


class BatchObserver(Protocol):
    """Is told of each batch, in the thread of the event loop."""

    def batch_done(self, rows: int, waited_s: float, run_s: float) -> None:
        """`waited_s` is that of the first in the batch."""

    def batch_failed(self, rows: int, error: BaseException) -> None:
        """The rows run once more, each request alone."""


@dataclass(slots=True)
class _Job:
    rows: NDArray[Any]
    future: asyncio.Future[NDArray[Any]]
    since: float = field(default_factory=perf_counter)


class Batcher:
    """Batches of rows over a function; lives in one event loop.

    Args:
        run: ``(n, *r)`` to ``(n, *reply)``, row by row; is called in threads, by as many at once as there are slots.
        settings: see there.
        observer: see there.

    Example:
        >>> class Silent:
        ...     def batch_done(self, rows, waited_s, run_s): ...
        ...     def batch_failed(self, rows, error): ...
        >>> async def three():
        ...     batcher = Batcher(lambda r: 2 * r, BatcherSettings(), Silent())
        ...     answers = await asyncio.gather(*(batcher.submit(np.full((1, 2), i)) for i in range(3)))
        ...     batcher.close()
        ...     return [answer.tolist() for answer in answers]
        >>> asyncio.run(three())
        [[[0, 0]], [[2, 2]], [[4, 4]]]
    """

    def __init__(self, run: Run, settings: BatcherSettings, observer: BatchObserver) -> None:
        self.settings = settings
        self._run, self._observer = run, observer
        self._queue: deque[_Job] = deque()
        self._queued_rows = 0
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pool = ThreadPoolExecutor(settings.slots, thread_name_prefix="tail")
        self._tasks: set[asyncio.Task[None]] = set()
        self._seconds_per_row = self._last_run_s = self._freed = 0.0

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    @property
    def running(self) -> int:
        """Batches that run."""
        return self._busy

    async def submit(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The replies of these rows: ``(n, *r)`` to ``(n, *reply)``; more rows than a batch holds run as several.

        Raises:
            HttpError: 429 while the queue is full, 500 where these rows fail.
        """
        most = self.settings.max_batch
        if self._queued_rows + len(rows) > self.settings.max_queue_rows:
            raise HttpError(
                429,
                f"expected at most {self.settings.max_queue_rows} rows to wait, got more: try again later",
                retry_after_s=self._queued_rows * self._seconds_per_row,
            )
        if len(rows) <= most:
            return await self._enqueue(rows)
        parts = [self._enqueue(rows[begin : begin + most]) for begin in range(0, len(rows), most)]
        try:
            return np.concatenate(await asyncio.gather(*parts))
        finally:
            for part in parts:
                part.cancel()

    def close(self) -> None:
        """Wait for what runs, and give the threads back."""
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=True)

    def _enqueue(self, rows: NDArray[Any]) -> asyncio.Future[NDArray[Any]]:
        future: asyncio.Future[NDArray[Any]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Job(rows, future))
        self._queued_rows += len(rows)
        self._dispatch()
        return future

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._busy < self.settings.slots:
            self._drop_cancelled()
            if not self._queue:
                return
            wait = self._due() - perf_counter()
            if self._queued_rows < self.settings.max_batch and wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._dispatch)
                return
            self._start(self._next_batch())

    def _due(self) -> float:
        """When the next batch runs, full or not."""
        delay, first = self.settings.max_delay_s, self._queue[0].since
        if not (delay and self._busy):
            return first + delay
        return max(first + delay, self._freed + _PATIENCE * self._last_run_s)

    def _drop_cancelled(self) -> None:
        while self._queue and self._queue[0].future.done():
            self._queued_rows -= len(self._queue.popleft().rows)

    def _next_batch(self) -> list[_Job]:
        jobs: list[_Job] = []
        rows = 0
        while self._queue and rows + len(self._queue[0].rows) <= self.settings.max_batch:
            job = self._queue.popleft()
            self._queued_rows -= len(job.rows)
            if not job.future.done():  # else its client has gone
                jobs.append(job)
                rows += len(job.rows)
        return jobs

    def _start(self, jobs: list[_Job]) -> None:
        self._busy += 1
        task = asyncio.get_running_loop().create_task(self._serve(jobs))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, jobs: list[_Job]) -> None:
        try:
            await self._answer(jobs)
        finally:
            for job in jobs:  # the loop is being closed under us: nobody may wait for ever
                job.future.cancel()
            self._busy -= 1
            self._freed = perf_counter()
            self._dispatch()

    async def _answer(self, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        count = sum(len(job.rows) for job in jobs)
        begun = perf_counter()
        try:
            replies = await loop.run_in_executor(self._pool, self._together, [job.rows for job in jobs])
        except Exception as error:
            self._observer.batch_failed(count, error)
            if len(jobs) > 1:
                for job in jobs:  # one bad request never fails its batch-mates
                    await self._answer([job])
            elif not jobs[0].future.done():
                jobs[0].future.set_exception(HttpError(500, "expected a reply of the model, got an error: see the log"))
            return
        took = self._last_run_s = perf_counter() - begun
        self._seconds_per_row = took / max(count * self.settings.slots, 1)
        self._observer.batch_done(count, begun - jobs[0].since, took)
        for job, reply in zip(jobs, replies, strict=True):
            if not job.future.done():
                job.future.set_result(reply)

    def _together(self, parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
        # a tensor behind JSON of any length lies at any address
        rows = np.require(parts[0], requirements=["C", "A"]) if len(parts) == 1 else np.concatenate(parts)
        replies = self._run(rows)
        if len(replies) != len(rows):
            raise ValueError(f"expected {len(rows)} replies, got {len(replies)}")
        if not math.isfinite(float(np.sum(replies, dtype=np.float64))):  # NaN and infinity stay in a sum
            raise ValueError("expected finite replies, got NaN or infinity")
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [part.copy() for part in np.split(replies, ends)]
