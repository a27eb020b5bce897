"""Weights of penalties as functions of the state of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from splitveil.contracts import TrainState
from splitveil.errors import SpecError

__all__ = ["Constant", "LearningRateCoupled", "Schedule", "WarmUp"]


class Schedule(Protocol):
    """The weight of a penalty at one moment of training."""

    def __call__(self, state: TrainState) -> float: ...


def _check_weight(weight: float) -> None:
    if not (math.isfinite(weight) and weight >= 0):
        raise SpecError(f"expected a finite penalty weight >= 0, got {weight}")


@dataclass(frozen=True, slots=True)
class Constant:
    """The same weight from the first step on."""

    weight: float

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, state: TrainState) -> float:
        return self.weight


@dataclass(frozen=True, slots=True)
class WarmUp:
    """No weight for `delay`, then a straight rise to the full weight over `rise` more.

    A full weight before the classes have formed collapses the features, so this is the default of CEM.
    Both are shares of the stage's epochs, so that the schedule means the same in a short and in a long run.
    """

    weight: float
    delay: float = 0.1
    rise: float = 0.3

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.delay < 0 or self.rise < 0:
            raise SpecError(f"expected delay and rise >= 0, got {self.delay} and {self.rise}")

    def __call__(self, state: TrainState) -> float:
        passed = state.progress - self.delay
        if passed < 0:
            return 0.0
        return self.weight * (min(1.0, passed / self.rise) if self.rise else 1.0)


@dataclass(frozen=True, slots=True)
class LearningRateCoupled:
    """The paper's schedule: nothing in epoch 1, the full weight below `full_below`, else weight * reference / lr.

    Between `full_below` (4.1e-4) and `reference` (1e-3) the weight is above the full one, as in the released code.
    """

    weight: float
    reference: float = 1e-3
    full_below: float = 4.1e-4

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, state: TrainState) -> float:
        if state.epoch == 0:
            return 0.0
        if state.lr < self.full_below:
            return self.weight
        return self.weight * self.reference / state.lr
