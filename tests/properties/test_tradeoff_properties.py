"""Trade-off curves on drawn points: against brute force, another library, dense integrals and known shifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from splitveil.metrics.curves import Floats
from splitveil.metrics.tradeoff import TradeOff, delta, pareto

Noisy = tuple[Floats, Floats]


@st.composite
def noisy(draw: st.DrawFn, least: int = 1) -> Noisy:
    """Points in any order, with ties: accuracies on a grid of 0.01, errors from -40 to 0 dB."""
    m = draw(st.integers(least, 12))
    accuracy = draw(st.lists(st.integers(0, 100), min_size=m, max_size=m))
    error_db = draw(st.lists(st.floats(-40, 0), min_size=m, max_size=m))
    return np.array(accuracy) / 100, 10 ** (np.array(error_db) / 10)


@st.composite
def falling(draw: st.DrawFn) -> Noisy:
    """Points that already fall, by at least 0.01 in accuracy and 0.1 dB."""
    steps = draw(st.lists(st.tuples(st.integers(1, 10), st.floats(0.1, 5.0)), min_size=2, max_size=8))
    accuracy, error_db = np.cumsum(steps, axis=0).T
    return accuracy / 100, 10 ** (-error_db / 10)


@settings(deadline=None, max_examples=100)
@given(noisy())
def test_pareto_keeps_what_brute_force_keeps(points: Noisy) -> None:
    rows = list(zip(*points, strict=True))
    expected = [
        not any(a >= x and e >= y and ((a, e) != (x, y) or j < i) for j, (a, e) in enumerate(rows) if j != i)
        for i, (x, y) in enumerate(rows)
    ]
    assert pareto(*points).tolist() == expected


@settings(deadline=None, max_examples=100)
@given(noisy())
def test_knots_are_the_isotonic_regression_of_another_library(points: Noisy) -> None:
    accuracy, mse = points
    curve = TradeOff.fit(accuracy, mse)
    other = IsotonicRegression(increasing=False).fit(accuracy, 10 * np.log10(mse))
    np.testing.assert_allclose(curve.mse_db, other.predict(np.unique(accuracy)), atol=1e-9)
    assert curve.accuracy == tuple(np.unique(accuracy))


@settings(deadline=None, max_examples=100)
@given(noisy())
def test_both_directions_fall_and_stay_in_range(points: Noisy) -> None:
    curve = TradeOff.fit(*points)
    error_db = curve.mse_db_at(np.linspace(*curve.accuracy_range, 101))
    accuracy = curve.accuracy_at(np.linspace(*curve.mse_db_range, 101))
    for values, (low, high) in ((error_db, curve.mse_db_range), (accuracy, curve.accuracy_range)):
        assert np.all(np.diff(values) <= 1e-9)
        assert values.min() >= low - 1e-9
        assert values.max() <= high + 1e-9


@settings(deadline=None, max_examples=100)
@given(falling())
def test_a_curve_runs_through_falling_points_and_inverts_itself(points: Noisy) -> None:
    accuracy, mse = points
    curve = TradeOff.fit(accuracy, mse)
    np.testing.assert_allclose(curve.mse_db_at(accuracy), 10 * np.log10(mse), atol=1e-9)
    np.testing.assert_allclose(curve.accuracy_at(10 * np.log10(mse)), accuracy, atol=1e-9)
    between = np.linspace(*curve.mse_db_range, 37)
    np.testing.assert_allclose(curve.mse_db_at(curve.accuracy_at(between)), between, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(noisy(least=2), st.floats(-20, 20))
def test_a_shift_in_decibels_is_found(points: Noisy, shift: float) -> None:
    accuracy, mse = points
    curve = TradeOff.fit(accuracy, mse)
    found = delta(curve, TradeOff.fit(accuracy, mse * 10 ** (shift / 10)))
    assume(found is not None)
    assert found is not None
    assert found.mse_db == pytest.approx(shift, abs=1e-9)
    assert found.accuracy_range == curve.accuracy_range


@settings(deadline=None, max_examples=60)
@given(falling(), st.integers(-20, 20))
def test_a_shift_in_accuracy_is_found(points: Noisy, shift: int) -> None:
    accuracy, mse = points[0] * 0.5 + 0.25, points[1]
    found = delta(TradeOff.fit(accuracy, mse), TradeOff.fit(accuracy + shift / 100, mse))
    assume(found is not None)
    assert found is not None
    assert found.accuracy_points == pytest.approx(shift, abs=1e-7)


@settings(deadline=None, max_examples=100)
@given(noisy(), noisy())
def test_exchange_turns_the_sign(a: Noisy, b: Noisy) -> None:
    first, second = TradeOff.fit(*a), TradeOff.fit(*b)
    there, back = delta(first, second), delta(second, first)
    assert (there is None) == (back is None)
    if there is None or back is None:
        return
    assert there.mse_db == -back.mse_db
    assert there.accuracy_range == back.accuracy_range
    assert (there.accuracy_points is None) == (back.accuracy_points is None)
    if there.accuracy_points is not None and back.accuracy_points is not None:
        assert there.accuracy_points == -back.accuracy_points


@settings(deadline=None, max_examples=25)
@given(noisy(least=2), noisy(least=2))
def test_means_are_dense_integrals(a: Noisy, b: Noisy) -> None:
    """Midpoints of 1000 steps; a falling curve between two bounds is off by half a step at most, times its fall."""
    curves = TradeOff.fit(*a), TradeOff.fit(*b)
    found = delta(*curves)
    assume(found is not None)
    assert found is not None
    steps = (np.arange(1000) + 0.5) / 1000
    low, high = found.accuracy_range
    below, above = (curve.mse_db_at(low + (high - low) * steps).mean() for curve in curves)
    assert found.mse_db == pytest.approx(above - below, abs=2 * 40 / 1000)
    bottom, top = (pick(curve.mse_db_range[i] for curve in curves) for i, pick in ((0, max), (1, min)))
    if found.accuracy_points is None:
        assert top - bottom < 1e-6
        return
    below, above = (curve.accuracy_at(bottom + (top - bottom) * steps).mean() for curve in curves)
    assert found.accuracy_points == pytest.approx(100 * (above - below), abs=2 * 100 / 1000)
