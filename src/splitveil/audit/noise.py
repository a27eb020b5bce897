"""What noise does to a score: another draw must not change it, and twice as much must not help the attacker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.attacks.committee import Committee
from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import Inverter, NoiseSource, NoiseSpec
from splitveil.experiments.attacking import configured_attack
from splitveil.experiments.scoring import reconstruct, release_all, score_pictures
from splitveil.experiments.target import Target, summarise
from splitveil.noise import SeededNoise
from splitveil.records import AttackResult, MetricResult
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["FURTHER_DRAWS", "on_other_draws", "with_more_noise"]

FURTHER_DRAWS = 2
"""Draws of the noise, beside that of the score, that the best attack is scored on."""

_BATCH = 512
_MORE_NOISE = 2.0
_ASKED_AGAIN = 8  # pictures that tell whether a release is ever another
_ROUNDING = 1e-4  # of the spread of releases: what other batch sizes may change


def on_other_draws(
    target: Target, best: AttackResult, pictures: int | None, observer: Observer
) -> tuple[MetricResult, ...] | None:
    """The error of the best attack on further draws of the noise, on the same pictures.

    Args:
        target: what was attacked.
        best: with the least error.
        pictures: how many it was scored on; None for all.
        observer: hears of each draw.

    Returns:
        None where every release of a picture is the same, where none can be asked for, or where the attack searches
        for each picture anew.
    """
    threat = ThreatModel.from_json(best.threat)
    inverter = _fitted(target, best)
    if inverter is None or not _varies(target, threat):
        return None
    places, found = target.places(pictures), list[MetricResult]()
    observer.start("noise", FURTHER_DRAWS, 0)
    for draw in range(FURTHER_DRAWS):
        releases = release_all(target.subject, target.test, threat, target.rng.child("test", "again", draw))
        drawn = reconstruct(inverter, releases[places.to(releases.device)])
        found.append(summarise(score_pictures(drawn, target.test, places), target.rng)["mse"])
        observer.advance(f"error {found[-1].mean:.5f}")
    observer.stop()
    return tuple(found)


def with_more_noise(target: Target, results: Sequence[AttackResult]) -> tuple[MetricResult, MetricResult] | None:
    """The error of the best learned attack that saw one release, and its error with twice the noise."""
    specs = target.subject.model.noise_specs if isinstance(target.subject, ModelSubject) else ()
    if not specs or any(spec.law != "standard_normal" for spec in specs):
        return None
    once = [item for item in results if ThreatModel.from_json(item.threat).observations == 1]
    for item in sorted(once, key=lambda item: item.metrics["mse"].mean):
        inverter = _fitted(target, item)
        if inverter is not None:
            return item.metrics["mse"], _error_with_more_noise(target, inverter)
    return None


def _error_with_more_noise(target: Target, inverter: Inverter) -> MetricResult:
    releases, start = list[Tensor](), 0
    for x, _ in target.test.batches(_BATCH):
        releases.append(target.subject.release(x, _Scaled(SeededNoise(target.rng.child("test"), start), _MORE_NOISE)))
        start += len(x)
    return summarise(score_pictures(reconstruct(inverter, torch.cat(releases)), target.test), target.rng)["mse"]


def _fitted(target: Target, attack: AttackResult) -> Inverter | None:
    configured, threat = configured_attack(attack.attack), ThreatModel.from_json(attack.threat)
    if isinstance(configured, Committee):  # its members are kept, and it is nothing else
        return target.fit(configured, threat)[0]
    return target.fitted(configured, threat)


def _varies(target: Target, threat: ThreatModel) -> bool:
    """Whether the release of a picture is not always the same, as its first pictures show."""
    if "query" not in target.subject.offers:
        return False
    few = target.test.take(torch.arange(min(_ASKED_AGAIN, len(target.test))))
    again = release_all(target.subject, few, threat, target.rng.child("test", "again", 0))
    releases = target.releases(threat)
    return not torch.allclose(again, releases[: len(again)], atol=_ROUNDING * float(releases.std()))


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The draws of another source, times a factor."""

    source: NoiseSource
    factor: float

    def draw(self, spec: NoiseSpec, n: int) -> Tensor:
        return self.factor * self.source.draw(spec, n)
