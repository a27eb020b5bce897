"""Weights of penalties as functions of the state of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from splitveil.contracts import Budget, TrainState
from splitveil.errors import SpecError

__all__ = ["Budgeted", "Constant", "InStage", "LearningRateCoupled", "Schedule", "WarmUp"]


class Schedule(Protocol):
    """The weight of a penalty at one moment of training."""

    def __call__(self, state: TrainState) -> float: ...


def _check_weight(weight: float) -> None:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not (number and math.isfinite(weight) and weight >= 0):
        raise SpecError(f"expected a finite penalty weight >= 0, got {weight!r}")


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
    Both are shares of the stage's epochs, so that the schedule means the same in a short and in a long run. A stage
    that goes on with what the one before has learned, such as fine-tuning, has the full weight from its first step.

    Example:
        >>> WarmUp(2.0)(TrainState(0, 0, 0.25, 0.1)), WarmUp(2.0)(TrainState(0, 0, 0.0, 0.1, continues=True))
        (1.0, 2.0)
    """

    weight: float
    delay: float = 0.1
    rise: float = 0.3

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.delay < 0 or self.rise < 0:
            raise SpecError(f"expected delay and rise >= 0, got {self.delay} and {self.rise}")

    def __call__(self, state: TrainState) -> float:
        if state.continues:
            return self.weight
        passed = state.progress - self.delay
        if passed < 0:
            return 0.0
        return self.weight * (min(1.0, passed / self.rise) if self.rise else 1.0)


@dataclass(frozen=True, slots=True)
class LearningRateCoupled:
    """The paper's schedule: nothing in epoch 1, the full weight below `full_below`, else weight * reference / lr.

    Between `full_below` (4.1e-4) and `reference` (1e-3) the weight is above the full one, as in the released code. In a
    stage that goes on with what the one before has learned, the first epoch is one like the others.

    Raises:
        SpecError: a state without a learning rate.

    Example:
        >>> schedule = LearningRateCoupled(16.0)
        >>> schedule(TrainState(0, 0, 0.0, 0.05)), schedule(TrainState(0, 0, 0.0, 0.05, continues=True))
        (0.0, 0.32)
    """

    weight: float
    reference: float = 1e-3
    full_below: float = 4.1e-4

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(self, state: TrainState) -> float:
        if state.lr is None:
            raise SpecError(
                "expected the learning rate for a schedule that follows it, got none: call the objective with "
                'lr=optimiser.param_groups[0]["lr"]'
            )
        if state.epoch == 0 and not state.continues:
            return 0.0
        if state.lr < self.full_below:
            return self.weight
        return self.weight * self.reference / state.lr


@dataclass(frozen=True, slots=True)
class InStage:
    """Another schedule in the stages of these names, no weight in the others.

    Example:
        >>> InStage(Constant(2.0), ("final",))(TrainState(0, 0, 0.0, 0.1, stage="network 1"))
        0.0
    """

    schedule: Schedule
    stages: tuple[str, ...]

    def __call__(self, state: TrainState) -> float:
        return self.schedule(state) if state.stage in self.stages else 0.0


@dataclass(frozen=True, slots=True)
class Budgeted:
    """As much weight as a budget of validation accuracy allows.

    ```
    w_0 = weight,   w_t = w_(t-1) * f_t  if epoch t-1 kept the budget, else  w_(t-1) / f_t
    f_1 = factor,   f_t = max(sqrt(f_(t-1)), smallest_factor)  where the direction changes, else  f_(t-1)
    ```

    within ``weight / span`` and ``weight * span``. Large steps find the size of the weight, small ones then follow the
    edge of the budget. The weight is a fold over the stage's validations, so it needs no memory beyond them; without a
    reference to hold them against it is 0.

    Args:
        weight: of the first epoch, > 0.
        budget: what an epoch may lose.
        factor: of the first steps, > 1.
        smallest_factor: of the last steps, > 1.
        span: how far the weight may move from the first one, up and down.

    Example:
        >>> schedule = Budgeted(1.0, Budget(points=1.0, term="conditional_entropy"))
        >>> state = TrainState(2, 0, 0.5, 0.01, validations=(0.97, 0.93), reference=0.97)
        >>> round(schedule(state), 3)  # 1, raised to 2, lowered to 2 / sqrt(2)
        1.414
    """

    weight: float
    budget: Budget
    factor: float = 2.0
    smallest_factor: float = 1.25
    span: float = 1000.0

    def __post_init__(self) -> None:
        _check_weight(self.weight)
        if self.weight == 0:
            raise SpecError(
                "expected a first weight > 0 under a budget, got 0: a factor cannot raise it, give a small one"
            )
        if not 1 < self.smallest_factor <= self.factor < self.span:
            raise SpecError(
                "expected 1 < smallest_factor <= factor < span, got "
                f"{self.smallest_factor}, {self.factor} and {self.span}"
            )

    def __call__(self, state: TrainState) -> float:
        if state.reference is None:
            return 0.0
        weight, factor, kept_last = self.weight, self.factor, None
        for score in state.validations:
            kept = self.budget.keeps(score, state.reference)
            if kept_last is not None and kept != kept_last:
                factor = max(math.sqrt(factor), self.smallest_factor)
            weight = weight * factor if kept else weight / factor
            weight = min(max(weight, self.weight / self.span), self.weight * self.span)
            kept_last = kept
        return weight
