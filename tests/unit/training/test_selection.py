"""Which epoch is kept, from validations that are made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.contracts import Budget, Stage
from splitveil.errors import TrainingError
from splitveil.training.selection import is_better

PLAIN = Stage()
BUDGET = Stage("budget", budget=Budget(points=1.0, term="penalty"))
shares = st.integers(0, 100).map(lambda count: count / 100)


def seen(accuracy: float, term: float = 1.0, objective: float = 1.0) -> dict[str, Any]:
    return {"val_accuracy": accuracy, "val_objective": objective, "val_terms": {"penalty": term}}


def test_without_a_budget_the_least_objective_among_the_last_fifth() -> None:
    best = seen(0.5, objective=2.0)
    assert not is_better(PLAIN, 7, 10, seen(0.9, objective=0.1), None, None)
    assert is_better(PLAIN, 8, 10, seen(0.1, objective=9.0), None, None)
    assert is_better(PLAIN, 9, 10, seen(0.1, objective=1.0), best, None)
    assert not is_better(PLAIN, 9, 10, seen(0.9, objective=3.0), best, None)


def test_under_a_budget_the_least_term_at_any_epoch() -> None:
    best = seen(0.90, term=2.0)
    assert is_better(BUDGET, 0, 10, seen(0.89, term=1.9, objective=99.0), best, 0.90)
    assert not is_better(BUDGET, 9, 10, seen(0.95, term=2.0), best, 0.90)
    assert not is_better(BUDGET, 9, 10, seen(0.88, term=0.1), best, 0.90)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(shares, st.floats(0.0, 10.0)), max_size=30), shares, st.sampled_from([0.0, 0.5, 3.0]))
def test_what_is_kept_never_breaks_the_budget(
    epochs: list[tuple[float, float]], reference: float, points: float
) -> None:
    """And nothing that keeps the budget has a lower term."""
    stage = Stage("budget", budget=Budget(points, "penalty"))
    best = seen(reference, term=5.0)
    for epoch, (accuracy, term) in enumerate(epochs):
        found = seen(accuracy, term)
        if is_better(stage, epoch, len(epochs), found, best, reference):
            best = found
    within = [term for accuracy, term in epochs if round(100 * (reference - accuracy), 6) <= points]
    assert round(100 * (reference - best["val_accuracy"]), 6) <= points
    assert best["val_terms"]["penalty"] == min([5.0, *within])


def test_a_term_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainingError, match=r"expected a finite 'penalty' .* got no term: train its penalty"):
        is_better(BUDGET, 0, 1, {"val_accuracy": 0.9, "val_terms": {}}, seen(0.9), 0.9)
