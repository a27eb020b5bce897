"""What is attacked, with the pictures of both sides: what several attacks share is computed once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from splitveil.attacks.storage import load_inverter
from splitveil.attacks.view import AttackerView, Progress
from splitveil.contracts import Attack, Inverter, Subject
from splitveil.data.loader import Pictures
from splitveil.data.splits import picture_digests
from splitveil.data.tables import ImageTable
from splitveil.errors import ThreatModelError
from splitveil.experiments.scoring import (
    as_result,
    image_metrics,
    reconstruct,
    release_all,
    score_pictures,
    summarize_metric,
)
from splitveil.metrics.summary import summarize
from splitveil.records import MetricResult
from splitveil.registry import ATTACKS
from splitveil.rng import Rng
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["CONTROLS", "SHOWN", "Judge", "Target", "judge_all", "summarise"]

SHOWN = 12
"""Pictures of a split that a report shows, the same for every attack."""

CONTROLS = ("mean_image", "class_mean", "ridge")
"""Attackers that every attack is held against."""

_DIGEST = 16  # characters


@dataclass(frozen=True, slots=True)
class Judge:
    """A score beyond pixels.

    Args:
        score: from reconstructions ``(n, c, h, w)`` and the places ``(n,)`` of their originals to ``(n,)``.
        unit: of the score.
        safer: which direction is safe.
        digest: of what it was made of that may be another next time, such as a file of weights; empty otherwise.
    """

    score: Callable[[Tensor, Tensor], Tensor]
    unit: str
    safer: Literal["higher", "lower"]
    digest: str = ""


class Target:
    """A subject, the pictures it is scored on, and those that its attackers hold.

    Releases of the test pictures, and the controls, are functions of the seed and of what the threat model lets an
    attacker see, not of the attack: all attacks face the same releases.

    Args:
        subject: what is attacked.
        test: pictures that scores are taken on; no attacker sees them.
        auxiliary: from a threat model to the pictures that it grants, None for none.
        seed: of releases, attackers and controls.
        traffic: pictures whose releases pass the wire while the attacker listens; neither scored nor its own.

    Attributes:
        judges: scores beyond pixels, by name.
        traffic: see above.
        control_queries: releases that the controls have asked for.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        test: Pictures,
        auxiliary: Callable[[ThreatModel], Pictures | None],
        seed: int,
        traffic: Pictures | None = None,
    ) -> None:
        self.subject, self.test, self.seed, self.traffic = subject, test, seed, traffic
        self.control_queries = 0
        self.rng = Rng(seed).child("attack")
        self.judges: dict[str, Judge] = {}
        self._auxiliary = auxiliary
        self._tables: dict[tuple[str, str | None], Pictures | None] = {}
        self._digests: dict[tuple[str, str | None], str] = {}
        self._releases: dict[tuple[int, str], Tensor] = {}
        self._controls: dict[ThreatModel, dict[str, dict[str, Tensor]]] = {}
        self._fitted: dict[tuple[str, ThreatModel], Inverter] = {}
        self._stored: dict[tuple[str, ThreatModel], Path] = {}

    def auxiliary(self, threat: ThreatModel) -> Pictures | None:
        """The attacker's own pictures."""
        key = (threat.auxiliary, threat.shift)
        if key not in self._tables:
            self._tables[key] = self._auxiliary(threat)
        return self._tables[key]

    def auxiliary_digest(self, threat: ThreatModel) -> str:
        """Of the attacker's pictures where they are another data set, which a path does not pin; empty otherwise."""
        pictures = self.auxiliary(threat) if threat.is_foreign else None
        if pictures is None:
            return ""
        key = (threat.auxiliary, threat.shift)
        if key not in self._digests:
            found = picture_digests(ImageTable(pictures.images, pictures.labels))
            self._digests[key] = sha256(found.tobytes()).hexdigest()[:_DIGEST]
        return self._digests[key]

    def view(self, threat: ThreatModel, *names: str) -> AttackerView:
        """What an attacker holds."""
        return AttackerView(
            self.subject,
            threat,
            auxiliary=self.auxiliary(threat),
            rng=self.rng.child("view", *names),
            observed=None if self.traffic is None else partial(self._overheard, self.traffic, threat),
            lender=partial(self._lend, threat),
        )

    def fit(self, attack: Attack, threat: ThreatModel, progress: Progress | None = None) -> tuple[Inverter, int]:
        """A fitted attack, and the queries that this call cost: none where a network was learned by an earlier call."""
        known = self.fitted(attack, threat)
        if known is not None:
            return known, 0
        view = self.view(threat, attack.name)
        view.progress = progress
        inverter = attack.fit(view, self.rng.child(attack.name, "fit"))
        if not inverter.searches:  # a search has nothing to keep but the facts of its last use
            self._fitted[repr(attack), threat] = inverter
        return inverter, view.queries

    def fitted(self, attack: Attack, threat: ThreatModel) -> Inverter | None:
        """What an earlier call, or another process, has learned; None where nothing is."""
        key = (repr(attack), threat)
        if key not in self._fitted and key in self._stored:
            self._fitted[key] = load_inverter(self._stored[key]).to(self.test.device)
        return self._fitted.get(key)

    def stored(self, attack: Attack, threat: ThreatModel, path: Path) -> None:
        """Say where an attack that was fitted in an earlier process lies, for those that build on it."""
        self._stored[repr(attack), threat] = path

    def _lend(self, threat: ThreatModel, attack: Attack, progress: Progress | None) -> tuple[Inverter, int]:
        return self.fit(attack, threat, progress)

    def _overheard(self, traffic: Pictures, threat: ThreatModel) -> Tensor:
        """Releases of the traffic, drawn once for what a threat model lets an attacker see of a picture."""
        key = (threat.observations, f"traffic, {threat.duplicates}")
        if key not in self._releases:
            self._releases[key] = release_all(self.subject, traffic, threat, self.rng.child("traffic"))
        return self._releases[key]

    def releases(self, threat: ThreatModel) -> Tensor:
        """What an attacker sees of the test pictures, ``(n, *r)``."""
        key = (threat.observations, threat.duplicates)
        if key not in self._releases:
            self._releases[key] = release_all(self.subject, self.test, threat, self.rng.child("test"))
        return self._releases[key]

    def places(self, most: int | None) -> Tensor:
        """Indices of the test pictures that an attack is scored on: all, or at most so many.

        The first of them are those that a report shows; the others are spread evenly over the rest.
        """
        if most is None or most >= len(self.test):
            return torch.arange(len(self.test))
        first = min(SHOWN, most)
        rest = torch.linspace(first, len(self.test) - 1, most - first).round().long()
        return torch.cat([torch.arange(first), rest])

    def score(
        self, inverter: Inverter, threat: ThreatModel, places: Tensor, observer: Observer | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The pictures that a fitted attack draws for these test pictures, and their scores."""
        releases = self.releases(threat)
        pictures = reconstruct(inverter, releases[places.to(releases.device)], observer)
        return pictures, score_pictures(pictures, self.test, places)

    def controls(self, threat: ThreatModel, places: Tensor) -> dict[str, dict[str, MetricResult]]:
        """Scores on these pictures of the controls that the threat model lets stand beside an attack."""
        if threat not in self._controls:
            self._controls[threat] = {}
            for name in self._possible(threat):
                with suppress(ThreatModelError):  # a budget that does not pay for it
                    self._controls[threat][name] = self._control(name, threat)
        return {
            name: summarise({metric: values[places] for metric, values in scores.items()}, self.rng)
            for name, scores in self._controls[threat].items()
        }

    def _possible(self, threat: ThreatModel) -> list[str]:
        if self.auxiliary(threat) is None:
            return []
        return [name for name in CONTROLS if not threat.missing(cast(Attack, ATTACKS.load(name)).needs)]

    def _control(self, name: str, threat: ThreatModel) -> dict[str, Tensor]:
        control, key = cast(Attack, ATTACKS.load(name)()), self.rng.child("control", name)
        view = self.view(threat, "control", name)
        inverter = control.fit(view, key)
        self.control_queries += view.queries
        return self.score(inverter, threat, self.places(None))[1]


def judge_all(target: Target, drawn: Tensor, places: Tensor) -> dict[str, MetricResult]:
    """What the judges of a target say of reconstructions."""
    return {
        name: as_result(
            summarize(judge.score(drawn, places), rng=target.rng.child("bootstrap", name), safer=judge.safer),
            unit=judge.unit,
            safer=judge.safer,
        )
        for name, judge in target.judges.items()
    }


def summarise(scores: dict[str, Tensor], rng: Rng) -> dict[str, MetricResult]:
    """Each metric's mean over the test pictures with its interval; attacks on one target share the resamples."""
    return {
        name: summarize_metric(scores[name], metric, rng.child("bootstrap", name))
        for name, metric in image_metrics().items()
    }
