"""Batches: who runs together, who waits, who fails, and that nobody gets another's answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitveil.cloud.batching import Batcher, BatcherSettings
from splitveil.cloud.problems import HttpError

Array = NDArray[np.float32]
NEVER_S = 3600.0


class Notes:
    """What a batcher said."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.failures: list[int] = []

    def batch_done(self, rows: int, waited_s: float, run_s: float) -> None:
        assert waited_s >= 0
        assert run_s >= 0
        self.batches.append(rows)

    def batch_failed(self, rows: int, error: BaseException) -> None:
        self.failures.append(rows)


def rows_of(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


def double(rows: Array) -> Array:
    return 2 * rows


def held(run: Callable[[Array], Array] = double) -> tuple[Callable[[Array], Array], threading.Event]:
    """A tail that waits until it is let go."""
    gate = threading.Event()

    def wait(rows: Array) -> Array:
        gate.wait(20)
        return run(rows)

    return wait, gate


def talk(
    run: Callable[[Array], Array], speak: Callable[[Batcher], Awaitable[Any]], **options: Any
) -> tuple[Any, Notes]:
    notes = Notes()

    async def main() -> Any:
        batcher = Batcher(run, BatcherSettings(**options), notes)
        try:
            return await speak(batcher)
        finally:
            batcher.close()

    return asyncio.run(main()), notes


def test_a_full_batch_goes_at_once() -> None:
    async def speak(batcher: Batcher) -> list[Array]:
        return await asyncio.gather(*(batcher.submit(rows_of(i)) for i in range(4)))

    replies, notes = talk(double, speak, max_batch=4, max_delay_s=NEVER_S)
    assert [reply.item() for reply in replies] == [0, 2, 4, 6]
    assert notes.batches == [4]


def test_one_that_stays_alone_goes_after_the_delay() -> None:
    replies, notes = talk(double, lambda batcher: batcher.submit(rows_of(3)), max_batch=64, max_delay_s=0.01)
    assert replies.tolist() == [[6]]
    assert notes.batches == [1]


def test_those_that_come_while_all_slots_are_busy_run_together() -> None:
    run, gate = held()

    async def speak(batcher: Batcher) -> list[Array]:
        first = asyncio.ensure_future(batcher.submit(rows_of(0)))
        await asyncio.sleep(0.01)
        rest = [asyncio.ensure_future(batcher.submit(rows_of(i))) for i in range(1, 6)]
        await asyncio.sleep(0.01)
        assert (batcher.running, batcher.queued_rows) == (1, 5)
        gate.set()
        return await asyncio.gather(first, *rest)

    replies, notes = talk(run, speak, max_batch=8, max_delay_s=0.0)
    assert [reply.item() for reply in replies] == [0, 2, 4, 6, 8, 10]
    assert notes.batches == [1, 5]


def test_while_others_run_the_next_batch_waits_to_be_filled() -> None:
    gate, turns = threading.Event(), iter(range(100))

    def run(rows: Array) -> Array:
        gate.wait(20) if next(turns) else time.sleep(0.8)  # the first says how long a batch takes
        return double(rows)

    async def speak(batcher: Batcher) -> list[Array]:
        replies = [await batcher.submit(rows_of(0))]
        busy = asyncio.ensure_future(batcher.submit(rows_of(1, 1, 1, 1)))
        asked = [asyncio.ensure_future(batcher.submit(rows_of(3)))]
        await asyncio.sleep(0.02)  # ten times the delay, a tenth of the patience
        asked.append(asyncio.ensure_future(batcher.submit(rows_of(4))))
        await asyncio.sleep(0.5)
        gate.set()
        return [*replies, *await asyncio.gather(busy, *asked)]

    _, notes = talk(run, speak, max_batch=4, max_delay_s=0.002, slots=2)
    assert sorted(notes.batches) == [1, 2, 4]


def test_a_request_larger_than_a_batch_runs_as_several() -> None:
    values = np.arange(21, dtype=np.float32)
    replies, notes = talk(double, lambda batcher: batcher.submit(values[:, None]), max_batch=8, max_delay_s=0.0)
    np.testing.assert_array_equal(replies[:, 0], 2 * values)
    assert sorted(notes.batches) == [5, 8, 8]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.002]),
)
def test_nobody_gets_the_rows_of_another(sizes: list[int], max_batch: int, slots: int, delay: float) -> None:
    async def speak(batcher: Batcher) -> list[Array]:
        asked = [batcher.submit(np.full((size, 1), i, np.float32)) for i, size in enumerate(sizes)]
        return await asyncio.gather(*asked)

    replies, notes = talk(double, speak, max_batch=max_batch, max_delay_s=delay, slots=slots)
    for i, (size, reply) in enumerate(zip(sizes, replies, strict=True)):
        assert reply.tolist() == [[2 * i]] * size
    assert sum(notes.batches) == sum(sizes)
    assert max(notes.batches) <= max_batch


def fail_on_seven(rows: Array) -> Array:
    if (rows == 7).any():
        raise ValueError("seven")
    return 2 * rows


@pytest.mark.parametrize(
    "run",
    [
        fail_on_seven,
        lambda rows: np.where(rows == 7, np.nan, 2 * rows),
        lambda rows: np.where(rows == 7, np.inf, 2 * rows),
    ],
    ids=["error", "nan", "infinity"],
)
def test_one_that_fails_does_not_fail_its_mates(run: Callable[[Array], Array]) -> None:
    async def speak(batcher: Batcher) -> list[Any]:
        asked = [batcher.submit(rows_of(value)) for value in (5, 6, 7, 8)]
        return await asyncio.gather(*asked, return_exceptions=True)

    [five, six, seven, eight], notes = talk(run, speak, max_batch=4, max_delay_s=NEVER_S)
    assert [five.item(), six.item(), eight.item()] == [10, 12, 16]
    assert isinstance(seven, HttpError)
    assert seven.status == 500
    assert notes.failures == [4, 1]


def test_a_tail_that_loses_rows_is_an_error() -> None:
    async def speak(batcher: Batcher) -> Any:
        return await asyncio.gather(batcher.submit(rows_of(1, 2)), return_exceptions=True)

    [problem], _ = talk(lambda rows: rows[:1], speak, max_batch=2)
    assert isinstance(problem, HttpError)


def test_a_full_queue_says_come_again() -> None:
    run, gate = held()

    async def speak(batcher: Batcher) -> HttpError:
        taken = [asyncio.ensure_future(batcher.submit(rows_of(1, 2))) for _ in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(HttpError) as caught:
            await batcher.submit(rows_of(1))
        gate.set()
        await asyncio.gather(*taken)
        await batcher.submit(rows_of(1, 2))
        return caught.value

    problem, _ = talk(run, speak, max_batch=2, max_queue_rows=4)
    assert problem.status == 429
    assert (b"retry-after", b"1") in problem.headers


def test_one_whose_client_has_gone_does_not_run() -> None:
    run, gate = held()

    async def speak(batcher: Batcher) -> Any:
        first = asyncio.ensure_future(batcher.submit(rows_of(1)))
        await asyncio.sleep(0.01)
        gone, stays = (asyncio.ensure_future(batcher.submit(rows_of(value))) for value in (2, 3))
        await asyncio.sleep(0.01)
        gone.cancel()
        gate.set()
        assert (await stays).item() == 6
        assert (await first).item() == 2
        assert batcher.queued_rows == 0
        return await asyncio.gather(gone, return_exceptions=True)

    [cancelled], notes = talk(run, speak, max_batch=1)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert notes.batches == [1, 1]


def test_several_slots_run_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(rows: Array) -> Array:
        together.wait()
        return 2 * rows

    async def speak(batcher: Batcher) -> list[Array]:
        return await asyncio.gather(batcher.submit(rows_of(1)), batcher.submit(rows_of(2)))

    replies, _ = talk(meet, speak, max_batch=1, slots=2)
    assert [reply.item() for reply in replies] == [2, 4]


def test_rows_at_an_odd_address_reach_the_tail_aligned() -> None:
    seen: list[bool] = []

    def look(rows: Array) -> Array:
        seen.append(rows.flags.aligned and rows.flags.c_contiguous)
        return 2 * rows

    odd = np.frombuffer(b"x" + rows_of(4).tobytes(), "<f4", 1, 1).reshape(1, 1)
    assert not odd.flags.aligned
    replies, _ = talk(look, lambda batcher: batcher.submit(odd), max_batch=1)
    assert replies.item() == 8
    assert seen == [True]
