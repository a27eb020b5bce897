"""Controls: attackers that ignore the release, or use it in the simplest way. Every real attack must beat them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitveil.attacks.inverters import ClassInverter, ConstantInverter, LinearInverter, mean_picture
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["ClassMean", "MeanImage", "Ridge", "ridge_weights"]

_BATCH = 512
_FEWEST_PICTURES = 4


@dataclass(frozen=True)
class MeanImage(Attack):
    """Always the mean auxiliary picture: what an attacker knows who never sees a release."""

    name: ClassVar[str] = "mean_image"
    needs: ClassVar[frozenset[Grant]] = frozenset()

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        inverter = ConstantInverter(held.release_spec, held.input_shape)
        inverter.to(held.auxiliary.device).image.copy_(mean_picture(held.auxiliary.batches(_BATCH)))
        inverter.facts = {"pictures": len(held.auxiliary)}
        inverter.eval()
        return inverter


@dataclass(frozen=True)
class ClassMean(Attack):
    """The mean auxiliary picture of the class whose mean release is nearest: what the label alone gives away."""

    name: ClassVar[str] = "class_mean"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs", "labels"})

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        indices = torch.arange(held.affordable(1))
        classes = int(held.labels.max()) + 1
        inverter = ClassInverter(held.release_spec, held.input_shape, classes=classes)
        inverter.to(held.auxiliary.device)
        inverter.images.copy_(_class_pictures(held, classes))
        releases = _pairs(held, indices, rng)[1]
        inverter.standardise.fit([releases])
        standardised = inverter.standardise(releases).flatten(1)
        inverter.centres.copy_(_class_means([standardised], held.labels[: len(indices)], classes))
        inverter.facts = {"classes": classes, "pictures": len(indices)}
        inverter.eval()
        return inverter


@dataclass(frozen=True)
class Ridge(Attack):
    """Ridge regression ``min_W ||Y - R W||^2 + n p ||W||^2`` from the standardised release to the picture.

    Closed form in float64; the penalty with the least error on held-out auxiliary pictures is then used on all.
    It is the best linear attacker, and exact for a linear head with Gaussian pictures and noise.

    Args:
        penalties: p, per picture and in units of a standardised release.
        pictures: the most auxiliary pictures to use; time grows with the cube of the smaller of this and q.
        val_share: share of them held out.

    Raises:
        SpecError: a value out of range.
    """

    name: ClassVar[str] = "ridge"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})

    penalties: tuple[float, ...] = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    pictures: int = 8192
    val_share: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalties", tuple(self.penalties))  # a list, when it comes from JSON
        if not self.penalties or not all(0 < penalty < math.inf for penalty in self.penalties):
            raise SpecError(f"expected penalties > 0, got {self.penalties}")
        if self.pictures < _FEWEST_PICTURES or not 0 < self.val_share < 1:
            raise SpecError(f"expected pictures >= {_FEWEST_PICTURES} and 0 < val_share < 1, got {self}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        order = torch.randperm(len(held.auxiliary), generator=rng.child("split").generator())
        indices = order[: held.affordable(_FEWEST_PICTURES, self.pictures)]
        x, r = _pairs(held, indices, rng)
        inverter = LinearInverter(held.release_spec, held.input_shape)
        inverter.to(x.device).standardise.fit([r])
        features, targets = inverter.standardise(r).flatten(1).double(), x.flatten(1).double()
        held_out = min(max(1, round(self.val_share * len(indices))), len(indices) - 2)
        errors = _validation_errors(features, targets, self.penalties, held_out)
        penalty = self.penalties[errors.index(min(errors))]
        weight, bias = ridge_weights(features, targets, [penalty * len(features)])[0]
        inverter.weight.copy_(weight)
        inverter.bias.copy_(bias)
        inverter.facts = {
            "penalty": penalty,
            "val_mse": dict(zip(map(str, self.penalties), errors, strict=True)),
            "pictures": len(indices),
        }
        inverter.eval()
        return inverter


def ridge_weights(features: Tensor, targets: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Solve ``min_{W, b} ||Y - R W - b||^2 + a ||W||^2`` for each a, in the smaller of the primal and the dual form.

    Args:
        features: R, ``(n, q)``, float64.
        targets: Y, ``(n, d)``, float64.
        penalties: a > 0.

    Returns:
        W ``(q, d)`` and b ``(d,)`` for each penalty.

    Example:
        >>> r = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
        >>> [(w, b)] = ridge_weights(r, 3 * r + 1, [1e-9])
        >>> round(float(w), 6), round(float(b), 6)
        (3.0, 1.0)
    """
    centre, level = features.mean(0), targets.mean(0)
    rows, goals = features - centre, targets - level
    dual = rows.shape[0] < rows.shape[1]
    gram = rows @ rows.T if dual else rows.T @ rows
    right = goals if dual else rows.T @ goals
    solutions = []
    for penalty in penalties:
        system = gram.clone()
        system.diagonal().add_(penalty)
        weight = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        weight = rows.T @ weight if dual else weight
        solutions.append((weight, level - centre @ weight))
    return solutions


def _validation_errors(features: Tensor, targets: Tensor, penalties: Sequence[float], held_out: int) -> list[float]:
    fit, goals = features[held_out:], targets[held_out:]
    solutions = ridge_weights(fit, goals, [penalty * len(fit) for penalty in penalties])
    val, truth = features[:held_out], targets[:held_out]
    return [float(((val @ weight + bias).clamp(0, 1) - truth).square().mean()) for weight, bias in solutions]


def _pairs(view: AttackerView, indices: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    chunks = [view.pairs(chunk, rng.child("noise", step)) for step, chunk in enumerate(torch.split(indices, _BATCH))]
    return torch.cat([x for x, _ in chunks]), torch.cat([r for _, r in chunks])


def _class_pictures(view: AttackerView, classes: int) -> Tensor:
    means = _class_means(view.auxiliary.batches(_BATCH), view.labels, classes)
    return means.to(torch.float32).reshape(classes, *view.input_shape)


def _class_means(batches: Iterable[Tensor], labels: Tensor, classes: int) -> Tensor:
    """``(classes, q)`` float64; a class without any row gets the mean of all rows."""
    total, start = torch.zeros(()), 0
    for batch in batches:
        rows = batch.flatten(1).double()
        sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels[start : start + len(rows)], rows)
        total, start = total.to(sums) + sums, start + len(rows)
    counts = torch.bincount(labels, minlength=classes).unsqueeze(1)
    return torch.where(counts > 0, total / counts.clamp_min(1), total.sum(0) / start)
