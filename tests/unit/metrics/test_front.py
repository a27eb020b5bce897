"""The front of many costs is what brute force and the front of two say it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splitveil.errors import InputError
from splitveil.metrics.curves import pareto
from splitveil.metrics.front import pareto_front

SMALL = st.integers(0, 4).map(float)


@settings(deadline=None)
@given(st.tuples(st.integers(1, 8), st.integers(1, 4)).flatmap(lambda shape: arrays(np.float64, shape, elements=SMALL)))
def test_a_row_is_kept_unless_another_beats_it(costs: np.ndarray) -> None:
    expected = []
    for row in costs.tolist():
        beaten = False
        for other in costs.tolist():
            no_worse = all(theirs <= ours for theirs, ours in zip(other, row, strict=True))
            beaten = beaten or (no_worse and other != row)
        expected.append(not beaten)
    assert pareto_front(costs).tolist() == expected
    assert pareto_front(costs).any()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 100)), min_size=1, max_size=12, unique=True))
def test_of_two_costs_it_is_that_of_the_curves(points: list[tuple[int, int]]) -> None:
    accuracy, mse = np.array(points, dtype=float).T / 100
    assert pareto_front(np.stack([-accuracy, -mse], 1)).tolist() == pareto(accuracy, mse).tolist()


@pytest.mark.parametrize("costs", [[1.0, 2.0], [[]], [[np.nan, 1.0]], [[np.inf, 1.0]]])
def test_other_costs_are_refused(costs: list[object]) -> None:
    with pytest.raises(InputError, match="expected finite costs"):
        pareto_front(costs)  # type: ignore[arg-type]
