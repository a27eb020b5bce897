"""Attribute inference: what a release says about a property that nobody meant to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.labelled import LabelledReleases, Schedule, choose
from splitveil.attacks.standardise import Standardisation, check_standardisation, make_standardise
from splitveil.attacks.view import attacker_view
from splitveil.contracts import AttributeAttack, FeatureSpec, Probe, View
from splitveil.errors import InputError, SpecError, UnknownNameError
from splitveil.metrics.labels import accuracy
from splitveil.nets.embedding import EmbeddingNet
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Attribute", "ReleaseProbe"]

Kind = Literal["linear", "network"]

_FEWEST_PICTURES = 8


class ReleaseProbe(Probe):
    """``P(standardise(r))``, P linear or a small network.

    Args:
        release: spec of r.
        classes: k.
        kind: ``linear`` or ``network``.
        width: of the network.
        standardise: ``affine`` or ``whiten``.
    """

    def __init__(
        self, release: FeatureSpec, *, classes: int, kind: Kind, width: int, standardise: Standardisation = "affine"
    ) -> None:
        super().__init__()
        self.standardise = make_standardise(standardise, release)
        self.net: nn.Module = (
            nn.Sequential(nn.Flatten(), nn.Linear(release.numel, classes))
            if kind == "linear"
            else EmbeddingNet(release, outputs=classes, width=width)
        )
        self.facts: dict[str, Any] = {}

    def logits(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to ``(n, k)``."""
        logits: Tensor = self.net(self.standardise(r))
        return logits


@dataclass(frozen=True)
class Attribute(AttributeAttack):
    """Train probes from the standardised release to a label and keep the one that is best on held-out pictures.

    The label is that of the auxiliary pictures: the task's, or any other that the table carries. Probes of all kinds
    learn side by side from the same releases, with fresh noise in each epoch where queries are granted.

    Args:
        kinds: of probes, ``linear`` and ``network`` (a small convolutional net on maps, one hidden layer on vectors).
        width: of the network, see `EmbeddingNet`.
        epochs: passes over the auxiliary pictures.
        batch_size: at least 4.
        lr: first learning rate.
        weight_decay: of Adam.
        val_share: share of the auxiliary pictures held out.
        standardise: ``affine`` per channel, or ``whiten`` the channels' correlations too.

    Raises:
        SpecError: a value out of range.

    Reference:
        Alain and Bengio: Understanding intermediate layers using linear classifier probes, 2016; attributes as the
        target: Song and Shmatikov, ICLR 2020.
    """

    name: ClassVar[str] = "attribute"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs", "labels"})

    kinds: tuple[Kind, ...] = ("linear", "network")
    width: int = 32
    epochs: int = 40
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 1e-4
    val_share: float = 0.1
    standardise: Standardisation = "affine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))  # a list, when it comes from JSON
        _ = self._schedule
        check_standardisation(self.standardise)
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise UnknownNameError("kind of probe", str(kind), get_args(Kind))
        if not self.kinds or self.width < 1 or not 0 < self.val_share < 1:
            raise SpecError(f"expected kinds, width >= 1 and 0 < val_share < 1, got {self}")

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self.epochs, self.batch_size, self.lr, self.weight_decay)

    def _fit(self, view: View, rng: Rng) -> ReleaseProbe:
        held = attacker_view(view)
        labels = held.labels
        if not len(labels) or int(labels.min()) < 0:
            raise InputError("expected auxiliary pictures with labels of 0 and above, got others: renumber the labels")
        classes = int(labels.max()) + 1
        order = torch.randperm(len(held.auxiliary), generator=rng.child("split").generator())
        order = order[: held.affordable(_FEWEST_PICTURES)]
        held_out = min(max(1, round(self.val_share * len(order))), len(order) // 2)
        releases = LabelledReleases(held, order[held_out:], order[:held_out], labels, self._schedule, rng)
        probes = self._build(held.release_spec, classes, rng, held.auxiliary.device)
        statistics = releases.statistics()
        for probe in probes.values():
            probe.standardise.fit([statistics])
        choice = choose(probes, releases, self._schedule, loss=_loss, validate=_validation_loss, progress=held.progress)
        chosen, (r, y) = probes[choice.name], releases.validation
        chosen.facts = {
            "kind": choice.name,
            "history": choice.history,
            "best_epoch": choice.epoch,
            "classes": classes,
            "majority": int(torch.bincount(labels).argmax()),
            "val_accuracy": float(accuracy(chosen.predict(r), y).mean()),
            "pictures": len(order),
            "fresh_noise": releases.fresh,
            "queries": held.queries,
        }
        return chosen

    def _build(self, release: FeatureSpec, classes: int, rng: Rng, device: torch.device) -> dict[str, ReleaseProbe]:
        probes: dict[str, ReleaseProbe] = {}
        for kind in self.kinds:
            with rng.child("weights", kind).scoped():
                probes[kind] = ReleaseProbe(
                    release, classes=classes, kind=kind, width=self.width, standardise=self.standardise
                ).to(device)
        return probes


def _loss(probe: ReleaseProbe, r: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(probe.logits(r), y)


def _validation_loss(probe: ReleaseProbe, r: Tensor, y: Tensor) -> float:
    return float(functional.cross_entropy(probe.predict(r), y))
