"""Trade-off curves: monotone, exact where points are, and their distance is the shift that was put in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from splitveil.errors import InputError
from splitveil.metrics.tradeoff import Points, TradeOff, delta, paired_delta, pareto

ACCURACY = np.array([0.5, 0.55, 0.62, 0.7])
MSE = np.array([0.04, 0.03, 0.02, 0.012])

figures = st.lists(st.tuples(st.floats(0, 1), st.floats(1e-4, 1.0)), min_size=1, max_size=12)


def scores(seeds: int, n: int, shift_db: float, key: int, *, noise: float = 0.0, common: int = 7) -> Points:
    """Points on a line of 10 dB per 0.2 of accuracy, shifted; all curves share the effects of their pictures."""
    rng, shared = np.random.default_rng(key), np.random.default_rng(common)
    easy, dark = shared.random(n), np.exp(shared.normal(0, 0.5, n))
    accuracy = np.linspace(0.5, 0.7, 4)
    level = -15 - 50 * (accuracy - 0.5) + shift_db
    level = level[:, None] + noise * rng.normal(size=(1, seeds))
    correct = np.broadcast_to((easy < accuracy[:, None]).astype(float)[:, None], (4, seeds, n))
    error = 10 ** (level[:, :, None] / 10) * (dark / dark.mean())
    return Points(np.array(correct), error)


# ------------------------------------------------------------------------------------------- points and curves


@settings(max_examples=60, deadline=None)
@given(figures)
def test_pareto_is_what_brute_force_says(points: list[tuple[float, float]]) -> None:
    kept = pareto([a for a, _ in points], [m for _, m in points])
    for index, (accuracy, mse) in enumerate(points):
        beaten = any(
            a >= accuracy and m >= mse and ((a, m) != (accuracy, mse) or other < index)
            for other, (a, m) in enumerate(points)
            if other != index
        )
        assert kept[index] == (not beaten)


@settings(max_examples=60, deadline=None)
@given(figures)
def test_a_curve_falls_and_its_inverse_too(points: list[tuple[float, float]]) -> None:
    curve = TradeOff.fit([a for a, _ in points], [m for _, m in points])
    errors = curve.mse_db_at(np.linspace(*curve.accuracy_range, 50))
    assert (np.diff(errors) <= 1e-9).all()
    accuracies = curve.accuracy_at(np.linspace(*curve.mse_db_range, 50))
    assert (np.diff(accuracies) <= 1e-9).all()


def test_monotone_points_lie_on_their_curve() -> None:
    order = np.array([2, 0, 3, 1])
    curve = TradeOff.fit(ACCURACY[order], MSE[order])
    np.testing.assert_allclose(curve.mse_db_at(ACCURACY), 10 * np.log10(MSE), atol=1e-9)
    np.testing.assert_allclose(curve.accuracy_at(10 * np.log10(MSE).round(12)), ACCURACY, atol=1e-9)
    assert curve.accuracy_range == (0.5, 0.7)


def test_points_out_of_order_are_pooled_and_the_flat_stretch_counts_at_its_best_accuracy() -> None:
    curve = TradeOff.fit([0.5, 0.6, 0.7], [0.1, 0.01, 0.1])
    np.testing.assert_allclose(curve.mse_db, [-10.0, -15.0, -15.0])
    assert float(curve.accuracy_at(-15.0)) == 0.7


def test_equal_accuracies_are_pooled() -> None:
    curve = TradeOff.fit([0.5, 0.5], [0.1, 0.001])
    np.testing.assert_allclose(curve.mse_db, [-20.0])
    assert float(curve.mse_db_at(0.5)) == pytest.approx(-20.0)


@pytest.mark.parametrize("accuracy", [0.49, 0.71, [0.6, 0.8]])
def test_curves_do_not_extrapolate(accuracy: Any) -> None:
    with pytest.raises(InputError, match="do not extrapolate"):
        TradeOff.fit(ACCURACY, MSE).mse_db_at(accuracy)


@pytest.mark.parametrize(
    ("accuracy", "mse"),
    [([], []), ([0.5], [0.1, 0.2]), ([np.nan], [0.1]), ([0.5], [0.0]), ([0.5], [np.inf]), ([[0.5]], [[0.1]])],
)
def test_bad_points_are_refused(accuracy: Any, mse: Any) -> None:
    for function in (pareto, TradeOff.fit):
        with pytest.raises(InputError, match="expected"):
            function(accuracy, mse)


# ------------------------------------------------------------------------------------------- delta


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.5, 2.0])
def test_a_shift_in_error_is_the_delta(shift: float) -> None:
    found = delta(TradeOff.fit(ACCURACY, MSE), TradeOff.fit(ACCURACY, MSE * 10 ** (shift / 10)))
    assert found is not None
    assert found.mse_db == pytest.approx(shift, abs=1e-8)
    assert found.accuracy_range == (0.5, 0.7)


@pytest.mark.parametrize("points", [-4.0, 1.0, 5.0])
def test_a_shift_in_accuracy_is_the_delta_in_points(points: float) -> None:
    found = delta(TradeOff.fit(ACCURACY, MSE), TradeOff.fit(ACCURACY + points / 100, MSE))
    assert found is not None
    assert found.accuracy_points == pytest.approx(points, abs=1e-9)


def test_the_delta_is_the_mean_of_the_gap_by_dense_integration() -> None:
    below, above = TradeOff.fit(ACCURACY, MSE), TradeOff.fit([0.52, 0.6, 0.75], [0.06, 0.03, 0.01])
    found = delta(below, above)
    assert found is not None
    assert found.accuracy_range == (0.52, 0.7)
    places = np.linspace(0.52, 0.7, 100_001)
    assert found.mse_db == pytest.approx(float((above.mse_db_at(places) - below.mse_db_at(places)).mean()), abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(figures, figures)
def test_the_delta_changes_its_sign_with_the_order(a: list[Any], b: list[Any]) -> None:
    first, second = (TradeOff.fit([x for x, _ in points], [y for _, y in points]) for points in (a, b))
    there, back = delta(first, second), delta(second, first)
    assert (there is None) == (back is None)
    if there and back:
        assert there.mse_db == pytest.approx(-back.mse_db, abs=1e-9)
        assert (there.accuracy_points is None) == (back.accuracy_points is None)


def test_without_overlap_there_is_no_number() -> None:
    low, high = TradeOff.fit([0.4, 0.5], [0.1, 0.05]), TradeOff.fit([0.489, 0.6], [0.1, 0.05])
    assert delta(low, high) is None
    assert delta(low, high, least_overlap=0.01) is not None
    assert delta(low, TradeOff.fit([0.45], [0.1])) is None
    assert delta(low, TradeOff.fit([0.45], [0.1]), least_overlap=0.0) is None


# ------------------------------------------------------------------------------------------- the bootstrap


def test_equal_curves_are_nothing_apart() -> None:
    points = scores(3, 200, 0.0, 1, noise=0.3)
    found = paired_delta(points, points, rng=np.random.default_rng(0), resamples=50)
    assert found.delta is not None
    assert found.delta.mse_db == 0.0
    assert found.mse_db == (0.0, 0.0)
    assert found.overlapping_share == 1.0


def test_what_the_pictures_share_cancels() -> None:
    below, above = scores(1, 300, 0.0, 1), scores(1, 300, 2.0, 2)
    found = paired_delta(below, above, rng=np.random.default_rng(0), resamples=100)
    assert found.mse_db == pytest.approx((2.0, 2.0), abs=1e-8)
    strangers = scores(1, 300, 2.0, 2, common=8)
    apart = paired_delta(below, strangers, rng=np.random.default_rng(0), resamples=100)
    assert apart.mse_db is not None
    assert apart.mse_db[1] - apart.mse_db[0] > 0.2


def test_the_same_generator_gives_the_same_interval() -> None:
    below, above = scores(3, 100, 0.0, 1, noise=0.3), scores(3, 100, 2.0, 2, noise=0.3)
    runs = [paired_delta(below, above, rng=np.random.default_rng(key), resamples=40) for key in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0].mse_db != runs[2].mse_db


def test_without_overlap_the_summary_has_no_number() -> None:
    below, above = scores(2, 100, 0.0, 1), scores(2, 100, 0.0, 2)
    above = Points(np.zeros_like(above.correct), above.error)
    found = paired_delta(below, above, rng=np.random.default_rng(0), resamples=20)
    assert (found.delta, found.mse_db, found.accuracy_points, found.overlapping_share) == (None, None, None, 0.0)


@pytest.mark.parametrize(
    ("correct", "error"),
    [
        (np.ones((2, 3)), np.ones((2, 3))),
        (np.ones((2, 3, 4)), np.ones((2, 3, 5))),
        (np.ones((0, 3, 4)), np.ones((0, 3, 4))),
        (np.full((1, 1, 1), np.nan), np.ones((1, 1, 1))),
        (np.ones((1, 1, 1)), np.full((1, 1, 1), -1.0)),
    ],
)
def test_bad_scores_are_refused(correct: NDArray[Any], error: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Points(correct, error)


def test_other_seeds_or_pictures_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="the same seeds and pictures"):
        paired_delta(scores(2, 50, 0, 1), scores(3, 50, 0, 1), rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="level"):
        paired_delta(scores(2, 50, 0, 1), scores(2, 50, 0, 1), rng=np.random.default_rng(0), level=1.5)
