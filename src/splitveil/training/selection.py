"""Which epoch's weights are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from splitveil.contracts import Budget, Stage
from splitveil.errors import TrainingError

__all__ = ["is_better"]

_CANDIDATES = 0.2  # the last share of a stage's epochs, among which the weights are selected


def is_better(
    stage: Stage,
    epoch: int,
    epochs: int,
    validation: Mapping[str, Any],
    best: Mapping[str, Any] | None,
    reference: float | None,
) -> bool:
    """Whether the weights of this epoch replace the best so far.

    Without a budget: the lowest objective among the last fifth of the epochs, for before that penalties have not yet
    reached their weight; among all epochs of a stage that settles, which has none. With one: the lowest value of the
    budget's term among the epochs that keep the budget, and the reference that the stage starts from.

    Args:
        stage: that the epoch belongs to.
        epoch: from 0.
        epochs: of the stage.
        validation: ``val_objective``, ``val_accuracy`` and ``val_terms`` of the epoch.
        best: the same of the best so far, None before the first; under a budget, the first is the reference, and where
            a stage settles, it is the start.
        reference: accuracy that the budget counts from, None without one.

    Raises:
        TrainingError: the term that the budget is spent on is not among those of validation, or is not finite.
    """
    if stage.budget is None:
        late = epoch >= epochs - max(1, math.ceil(_CANDIDATES * epochs))
        return (late or stage.settles) and (best is None or validation["val_objective"] < best["val_objective"])
    if best is None or reference is None or not stage.budget.keeps(validation["val_accuracy"], reference):
        return False
    return _bought(validation, stage.budget) < _bought(best, stage.budget)


def _bought(validation: Mapping[str, Any], budget: Budget) -> float:
    terms: Mapping[str, float] = validation["val_terms"]
    if budget.term not in terms:
        raise TrainingError(
            f"expected a finite '{budget.term}' on validation data for the budget to lower, got "
            f"{', '.join(terms) or 'no term'}: train its penalty, or leave out the budget"
        )
    return terms[budget.term]
