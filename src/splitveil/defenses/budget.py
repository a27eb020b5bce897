"""A defense whose penalty weighs as much as a budget of accuracy allows."""

from __future__ import annotations

from dataclasses import replace

from splitveil.contracts import Budget, Stage
from splitveil.defenses.base import Defense
from splitveil.errors import SpecError
from splitveil.schedules import Budgeted

__all__ = ["within_budget"]


def within_budget(defense: Defense, points: float, *, weight: float) -> Defense:
    """The defense with its one penalty under a controller, in two stages.

    ```
    reference   the recipe's epochs, weight 0                -> its selected weights and their validation accuracy
    budget      half as many more from there, a tenth of     -> the epoch with the lowest term among those that lose
                the rate, weight by `Budgeted`                  at most `points`, or the reference
    ```

    The reference stage is the run of the same defense without its penalty, bit for bit. In the other one, penalties
    beside it that warm up have done so.

    Args:
        defense: with one penalty, whose term has the penalty's name.
        points: percentage points of validation accuracy that may be lost; kept as ``budget_points`` in `params`.
        weight: of the penalty in the first epoch of the budget.

    Raises:
        SpecError: not one penalty, or a value out of range.
    """
    if len(defense.penalties) != 1:
        raise SpecError(f"expected one penalty to put under a budget in '{defense.name}', got {len(defense.penalties)}")
    (penalty,) = defense.penalties
    budget = Budget(points, penalty.name)
    return replace(
        defense,
        params={**defense.params, "budget_points": points},
        penalties=(replace(penalty, schedule=Budgeted(weight, budget)),),
        plan=(
            Stage("reference"),
            Stage(
                "budget",
                0.5,
                min_epochs=6,
                lr_scale=0.1,
                lr_schedule="constant",
                budget=budget,
                continues=True,
            ),
        ),
    )
