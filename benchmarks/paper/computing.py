"""Points one after the other, or several at once in processes of their own: small networks leave most of a GPU idle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.paper.points import Place, Point, run_point, train_teacher
from benchmarks.paper.scales import SETTLED, Scale
from benchmarks.paper.steps import TimeIsUpError
from splitveil.cli.progress import Quiet
from splitveil.errors import SplitveilError

__all__ = ["compute"]

Found = dict[str, Any] | SplitveilError | None
"""A point, why it cannot be computed, or None where the time was up."""


def compute(points: Sequence[Point], scale: Scale, place: Place, workers: int = 1) -> Iterator[tuple[Point, Found]]:
    """Each point once it is there, in the order in which they end; one that fails does not keep the others waiting.

    What several points start from is trained first, so that no two processes train it.

    Args:
        points: to compute.
        scale: of all of them.
        place: of data and results.
        workers: processes that compute at the same time.
    """
    if workers == 1 or len(points) < 2:
        for point in points:
            found = _run_point(point, scale, place)
            yield point, found
            if found is None:
                return
        return
    for seed in sorted({point.seed for point in points if point.kind in SETTLED}):
        try:
            train_teacher(seed, scale, place)
        except TimeIsUpError:
            return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context, quiet = get_context("spawn"), replace(place, watch=Quiet)
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (threads,)) as pool:
        of: dict[Future[Found], Point] = {pool.submit(_run_point, point, scale, quiet): point for point in points}
        for future in as_completed(of):
            yield of[future], future.result()


def _run_point(point: Point, scale: Scale, place: Place) -> Found:
    try:
        return run_point(point, scale, place)
    except SplitveilError as error:
        return error
