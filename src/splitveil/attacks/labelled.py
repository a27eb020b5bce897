"""Learning from releases and labels: what attacks on identities and on attributes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from splitveil.attacks.view import AttackerView, Progress
from splitveil.errors import SpecError, TrainingError
from splitveil.rng import Rng

__all__ = ["Choice", "LabelledReleases", "Schedule", "choose"]

_LAST_LR = 1e-5
_SMALLEST_BATCH = 4
_STATISTICS = 4096  # pictures whose releases fit the standardisation


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: Adam, with a cosine from `lr` to 1e-5.

    Raises:
        SpecError: a value out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < _SMALLEST_BATCH:
            raise SpecError(f"expected epochs >= 1 and batch_size >= {_SMALLEST_BATCH}, got {self}")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise SpecError(f"expected lr > 0 and weight_decay >= 0, got {self}")

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        last = min(_LAST_LR, self.lr)
        return last + (self.lr - last) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


class LabelledReleases:
    """Releases of auxiliary pictures with their labels, in two shares.

    Each epoch has fresh releases where queries are granted and the budget pays for them all; else each picture's one
    release is learned from again.

    Args:
        view: grants pairs and labels.
        fit: indices to learn from, ``(m,)`` int64.
        val: held-out indices, may be empty.
        labels: ``(n,)`` int64, of all auxiliary pictures, as the attack numbers them.
        schedule: says how many releases fresh noise would take.
        rng: key of noise and order.
    """

    def __init__(
        self, view: AttackerView, fit: Tensor, val: Tensor, labels: Tensor, schedule: Schedule, rng: Rng
    ) -> None:
        self._view, self._fit, self._schedule, self._rng = view, fit, schedule, rng
        self._labels = labels
        left = view.queries_left
        cost = (schedule.epochs * len(fit) + len(val) + min(len(fit), _STATISTICS)) * view.threat.observations
        self.fresh = view.threat.allows("query") and (left is None or cost <= left)
        self.validation = (self._draw(val, rng.child("validation")), self._labels_of(val))
        self._stored = None if self.fresh else self._draw(fit, rng.child("stored"))

    def _draw(self, indices: Tensor, rng: Rng) -> Tensor:
        if not len(indices):
            return torch.zeros(0, *self._view.release_spec.shape, device=self._view.auxiliary.device)
        chunks = torch.split(indices, self._schedule.batch_size)
        return torch.cat([self._view.pairs(chunk, rng.child(step))[1] for step, chunk in enumerate(chunks)])

    def _labels_of(self, indices: Tensor) -> Tensor:
        return self._labels[indices.to(self._labels.device)]

    def statistics(self) -> Tensor:
        """Releases that the standardisation is fitted on."""
        if self._stored is not None:
            return self._stored
        return self._draw(self._fit[:_STATISTICS], self._rng.child("statistics"))

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Releases and labels in random order; batches of nearly equal size, so that none is too small to norm."""
        count = len(self._fit)
        order = torch.randperm(count, generator=self._rng.child("order", epoch).generator())
        for step, places in enumerate(order.tensor_split(-(-count // self._schedule.batch_size))):
            indices = self._fit[places]
            if self._stored is None:
                r = self._view.pairs(indices, self._rng.child("noise", epoch, step))[1]
            else:
                r = self._stored[places.to(self._stored.device)]
            yield r, self._labels_of(indices)


@dataclass(frozen=True, slots=True)
class Choice:
    """What training ended with: the name of the best candidate, its epoch, and the losses of all."""

    name: str
    epoch: int
    history: list[dict[str, Any]]


def choose(
    candidates: Mapping[str, nn.Module],
    releases: LabelledReleases,
    schedule: Schedule,
    *,
    loss: Callable[[Any, Tensor, Tensor], Tensor],
    validate: Callable[[Any, Tensor, Tensor], float] | None,
    progress: Progress | None,
) -> Choice:
    """Train candidates side by side on the same releases; the best one ends in its best epoch's state.

    Args:
        candidates: modules by name.
        releases: to learn from, and held-out ones.
        schedule: of all.
        loss: of a candidate on a batch.
        validate: loss of a candidate on the held-out releases; None to keep the last epoch.
        progress: called with each epoch's losses.

    Raises:
        TrainingError: a loss that is not finite.
    """
    parameters = [parameter for module in candidates.values() for parameter in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)
    history: list[dict[str, Any]] = []
    best, name, at, state = math.inf, next(iter(candidates)), 0, {}
    for epoch in range(schedule.epochs):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(epoch)
        train = _epoch(candidates, optimiser, releases.batches(epoch), loss)
        val = (
            train
            if validate is None
            else {key: validate(item, *releases.validation) for key, item in candidates.items()}
        )
        history.append({"epoch": epoch, "train_loss": train, "val_loss": val})
        if not all(math.isfinite(value) for value in (*train.values(), *val.values())):
            raise TrainingError(f"the attack diverged in epoch {epoch} (validation loss {val}): lower its lr")
        if progress is not None:
            progress({**history[-1], "epochs": schedule.epochs})
        first = min(val, key=val.__getitem__)
        if validate is None or val[first] < best:
            best, name, at = val[first], first, epoch
            state = {key: value.detach().clone() for key, value in candidates[name].state_dict().items()}
    candidates[name].load_state_dict(state)
    candidates[name].eval()
    return Choice(name, at, history)


def _epoch(
    candidates: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss: Callable[[Any, Tensor, Tensor], Tensor],
) -> dict[str, float]:
    totals, count = dict.fromkeys(candidates, 0.0), 0
    for module in candidates.values():
        module.train()
    for r, y in batches:
        optimiser.zero_grad(set_to_none=True)
        losses = {name: loss(module, r, y) for name, module in candidates.items()}
        torch.autograd.backward(list(losses.values()))
        optimiser.step()
        count += len(y)
        for name, value in losses.items():
            totals[name] += float(value.detach()) * len(y)
    return {name: total / count for name, total in totals.items()}
