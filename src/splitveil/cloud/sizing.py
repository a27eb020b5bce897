"""How many rows to run together, how many batches at a time, with how many threads: measured on this machine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from splitveil.cloud.logs import log
from splitveil.cloud.settings import ServeSettings, cores
from splitveil.cloud.tails import Served, Tail, sample_releases

__all__ = ["Sizing", "choose", "measure", "measure_sizing"]

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_NEAR_BEST = 0.95
_LEAST_S = 0.1  # that one size is measured for
_MOST_S = 1.0  # after a size that took longer, larger ones are not tried


@dataclass(frozen=True, slots=True)
class Sizing:
    """One way to use the machine, and what it gives."""

    max_batch: int
    slots: int
    threads: int
    rows_per_s: float

    @property
    def rows_at_once(self) -> int:
        """That are in the works; fewer of them mean less waiting."""
        return self.max_batch * self.slots


def measure_sizing(served: Served, settings: ServeSettings) -> ServeSettings:
    """The settings with what was left open filled in by what is best here."""
    count = cores()
    layouts = {(slots, settings.threads or max(1, count // slots)) for slots in _slots(settings, count)}
    sizes = (settings.max_batch,) if settings.max_batch else _SIZES
    found: list[Sizing] = []
    for slots, threads in sorted(layouts):
        found += measure(served.tail(settings, threads), served, sizes, slots, threads)
    best = choose(found)
    log(
        logging.INFO,
        "sized",
        max_batch=best.max_batch,
        slots=best.slots,
        threads=best.threads,
        rows_per_s=round(best.rows_per_s),
    )
    return settings.sized(best.max_batch, best.slots, best.threads)


def measure(
    tail: Tail, served: Served, sizes: Sequence[int], slots: int, threads: int, least_s: float = _LEAST_S
) -> list[Sizing]:
    """Rows per second with `slots` batches at a time, for each size; warm, for at least so many seconds."""
    found: list[Sizing] = []
    with ThreadPoolExecutor(slots) as pool:
        for size in sizes:
            rows = sample_releases(served.passport, size)
            tail(rows)
            rounds, begun = 0, perf_counter()
            while rounds == 0 or perf_counter() - begun < least_s:
                list(pool.map(tail, [rows] * slots))
                rounds += 1
            took = perf_counter() - begun
            found.append(Sizing(size, slots, threads, rounds * slots * size / took))
            if took > max(_MOST_S, 2 * least_s):
                break
    return found


def choose(found: Sequence[Sizing]) -> Sizing:
    """The fewest rows at once among those that are near the best throughput.

    Example:
        >>> choose([Sizing(1, 1, 1, 50.0), Sizing(8, 1, 1, 99.0), Sizing(64, 1, 1, 100.0)]).max_batch
        8
    """
    best = max(sizing.rows_per_s for sizing in found)
    near = [sizing for sizing in found if sizing.rows_per_s >= _NEAR_BEST * best]
    return min(near, key=lambda sizing: (sizing.rows_at_once, -sizing.rows_per_s))


def _slots(settings: ServeSettings, count: int) -> list[int]:
    if settings.slots:
        return [settings.slots]
    return sorted({1, *(count // threads for threads in (1, 2, 4) if threads <= count)})
