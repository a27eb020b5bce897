"""Controls: attackers so simple that a real attack must beat them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["ClassMean", "MeanImage", "Ridge"]

_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_CHUNK = 512


class _MeanInverter(Inverter):
    """One picture per class (or one for all), chosen by a rule on the release."""

    pictures: Tensor
    centers: Tensor

    def __init__(self, pictures: Tensor, centers: Tensor) -> None:
        super().__init__()
        self.register_buffer("pictures", pictures)
        self.register_buffer("centers", centers)
        self.facts = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to the mean picture of the class whose mean release is nearest, ``(n, c, h, w)``."""
        return self.pictures[torch.cdist(r.flatten(1), self.centers).argmin(1)]


class _RidgeInverter(Inverter):
    """``x = W (r - mean_r) / std_r + mean_x``."""

    weight: Tensor
    center: Tensor
    scale: Tensor
    mean: Tensor

    def __init__(self, weight: Tensor, center: Tensor, scale: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)
        self.register_buffer("mean", mean)
        self.facts = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)``."""
        rows = (r.flatten(1) - self.center) / self.scale @ self.weight
        return rows.view(len(r), *self.mean.shape) + self.mean


def _all_pairs(view: AttackerView, rng: Rng) -> tuple[Tensor, Tensor]:
    """All auxiliary pictures with one release each."""
    pairs = [
        view.pairs(torch.arange(start, min(start + _CHUNK, len(view.auxiliary))), rng.child("pairs", start))
        for start in range(0, len(view.auxiliary), _CHUNK)
    ]
    return torch.cat([x for x, _ in pairs]), torch.cat([r for _, r in pairs])


@dataclass(frozen=True)
class MeanImage(Attack):
    """Always the mean auxiliary picture: what an attacker knows without any release."""

    name: ClassVar[str] = "mean_image"
    needs: ClassVar[frozenset[Grant]] = frozenset()

    def _fit(self, view: View, rng: Rng) -> Inverter:
        attacker = attacker_view(view)
        total = torch.stack([x.sum(0) for x in attacker.auxiliary.batches(_CHUNK)]).sum(0)
        center = total.new_zeros(1, attacker.release_spec.numel)
        return _MeanInverter((total / len(attacker.auxiliary)).unsqueeze(0), center)


@dataclass(frozen=True)
class ClassMean(Attack):
    """The mean picture of the class whose mean release is nearest: what the label alone gives away."""

    name: ClassVar[str] = "class_mean"
    needs: ClassVar[frozenset[Grant]] = frozenset({"query", "labels"})

    def _fit(self, view: View, rng: Rng) -> Inverter:
        attacker = attacker_view(view)
        x, r = _all_pairs(attacker, rng)
        labels = attacker.labels
        classes = int(labels.max()) + 1
        chosen = torch.nn.functional.one_hot(labels, classes).to(x)
        share = chosen / chosen.sum(0).clamp(min=1)
        pictures = (share.T @ x.flatten(1)).view(classes, *x.shape[1:])
        return _MeanInverter(pictures, share.T @ r.flatten(1))


@dataclass(frozen=True)
class Ridge(Attack):
    """Ridge regression from standardised release to picture, its penalty chosen on held-out auxiliary pictures.

    ```
    W = (R'R / n + a I)^-1 R'X / n      (or the dual form, where there are fewer pictures than features)
    ```
    """

    name: ClassVar[str] = "ridge"
    needs: ClassVar[frozenset[Grant]] = frozenset({"query"})

    def _fit(self, view: View, rng: Rng) -> Inverter:
        attacker = attacker_view(view)
        x, r = _all_pairs(attacker, rng)
        order = torch.randperm(len(x), generator=rng.child("split").generator()).to(x.device)
        pictures, rows = x[order].double().flatten(1), r[order].double().flatten(1)
        held_out = max(1, len(x) // 5)
        center, scale = rows.mean(0), rows.std(0).clamp(min=1e-12)
        rows, mean = (rows - center) / scale, pictures.mean(0)
        pictures = pictures - mean
        solve = _Ridge(rows[held_out:], pictures[held_out:])
        errors = {a: float((rows[:held_out] @ solve(a) - pictures[:held_out]).square().mean()) for a in _PENALTIES}
        penalty = min(errors, key=lambda a: errors[a])
        weight = _Ridge(rows, pictures)(penalty).float()
        inverter = _RidgeInverter(weight, center.float(), scale.float(), mean.float().view(x.shape[1:]))
        inverter.facts = {"penalty": penalty}
        return inverter


class _Ridge:
    """The regression for any penalty, from one eigendecomposition of the smaller Gram matrix."""

    def __init__(self, rows: Tensor, targets: Tensor) -> None:
        self.rows, self.targets = rows, targets
        self.primal = rows.shape[1] <= len(rows)
        gram = (rows.T @ rows if self.primal else rows @ rows.T) / len(rows)
        self.values, self.vectors = torch.linalg.eigh(gram)

    def __call__(self, penalty: float) -> Tensor:
        """W ``(q, d)``."""
        inverse: Tensor = self.vectors / (self.values.clamp(min=0) + penalty) @ self.vectors.T
        n = len(self.rows)
        weight: Tensor = (
            inverse @ (self.rows.T @ self.targets) if self.primal else self.rows.T @ (inverse @ self.targets)
        )
        return weight / n
