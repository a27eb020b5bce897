"""Scores of reconstructions and predictions over a whole split, in fixed chunks with noise keyed by picture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from splitveil.attacks.observing import observe
from splitveil.contracts import Inverter, Metric, Subject, Summary, Task
from splitveil.data.loader import Pictures
from splitveil.data.paired import PairedPictures
from splitveil.metrics.summary import summarize
from splitveil.noise import SeededNoise
from splitveil.records import MetricResult
from splitveil.registry import METRICS
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["image_metrics", "reconstruct", "release_all", "score_model", "score_pictures", "summarize_metric"]

_BATCH = 512


def image_metrics() -> dict[str, Metric]:
    """All registered picture metrics by name."""
    return {entry.name: METRICS.load(entry.name)() for entry in METRICS}


def release_all(subject: Subject, pictures: Pictures, threat: ThreatModel, rng: Rng) -> Tensor:
    """What an attacker sees of each picture, ``(n, *r)``: one release, or what all its observations amount to.

    A subject that answers no queries has nothing but the stored releases of `PairedPictures`.
    """
    if isinstance(pictures, PairedPictures) and "query" not in subject.offers:
        return pictures.releases
    releases, start = [], 0
    for x, _ in pictures.batches(_BATCH):
        source = partial(SeededNoise, start=start)
        releases.append(observe(subject, x, threat, source=source, rng=rng, start=start))
        start += len(x)
    return torch.cat(releases)


def reconstruct(inverter: Inverter, releases: Tensor, observer: Observer | None = None) -> Tensor:
    """Pictures ``(n, c, h, w)`` from releases; an attack that searches tells the observer of each picture done."""
    if observer is None or not inverter.searches:
        return torch.cat([inverter.invert(chunk) for chunk in torch.split(releases, _BATCH)])
    observer.start("search", len(releases), 0)
    found: list[Tensor] = []
    try:
        for chunk in torch.split(releases, _BATCH):
            inverter.progress = _Searched(observer, len(chunk))
            found.append(inverter.invert(chunk))
    finally:
        inverter.progress = None
        observer.stop()
    return torch.cat(found)


class _Searched:
    """Shares of a call as pictures that are done."""

    def __init__(self, observer: Observer, pictures: int) -> None:
        self._observer, self._pictures, self._done = observer, pictures, 0

    def __call__(self, share: float) -> None:
        due = round(share * self._pictures)
        for _ in range(due - self._done):
            self._observer.advance("")
        self._done = max(self._done, due)


def score_pictures(reconstructions: Tensor, pictures: Pictures, places: Tensor | None = None) -> dict[str, Tensor]:
    """Every metric per picture, on the CPU.

    Args:
        reconstructions: ``(n, c, h, w)``.
        pictures: the originals' table.
        places: ``(n,)`` indices of the originals; None for all in order.
    """
    metrics = image_metrics()
    scores: dict[str, list[Tensor]] = {name: [] for name in metrics}
    indices = torch.arange(len(pictures)) if places is None else places
    for drawn, chunk in zip(torch.split(reconstructions, _BATCH), torch.split(indices, _BATCH), strict=True):
        x, _ = pictures.get(chunk)
        for name, metric in metrics.items():
            scores[name].append(metric(drawn, x).cpu())
    return {name: torch.cat(values) for name, values in scores.items()}


def summarize_metric(values: Tensor, metric: Metric, rng: Rng) -> MetricResult:
    """Mean, interval and worst picture of one metric."""
    return as_result(summarize(values, rng=rng, safer=metric.safer), unit=metric.unit, safer=metric.safer)


def as_result(summary: Summary, unit: str, safer: str) -> MetricResult:
    """A summary as it is recorded."""
    facts: Mapping[str, object] = {**summary.to_json(), "unit": unit, "safer": safer}
    return MetricResult.model_validate(facts)


def score_model(model: SplitModel, task: Task, pictures: Pictures, rng: Rng) -> Tensor:
    """The task's score per picture, through the released channel."""
    scores, start = [], 0
    for x, y in pictures.batches(_BATCH):
        r = model.release(x, noise=SeededNoise(rng, start))
        scores.append(task.score(model.predict(r), task.target(x, y)).cpu())
        start += len(x)
    return torch.cat(scores)
