"""Weights of penalties over training."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.contracts import Budget, TrainState
from splitveil.errors import SpecError
from splitveil.schedules import Budgeted, Constant, LearningRateCoupled, Schedule, WarmUp

weights = st.floats(0.0, 100.0)
progresses = st.floats(0.0, 1.0, exclude_max=True)
each_schedule = pytest.mark.parametrize("kind", [Constant, WarmUp, LearningRateCoupled])


def state(*, epoch: int = 5, progress: float = 0.5, lr: float = 1e-3, step: int = 3) -> TrainState:
    return TrainState(epoch, step, progress, lr)


@settings(deadline=None, max_examples=25)
@given(weights, st.integers(0, 300), progresses, st.floats(1e-6, 1.0))
def test_constant_is_constant(weight: float, epoch: int, progress: float, lr: float) -> None:
    assert Constant(weight)(state(epoch=epoch, progress=progress, lr=lr)) == weight


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 0.0), (0.19, 0.0), (0.2, 0.0), (0.3, 0.25), (0.4, 0.5), (0.5, 0.75), (0.6, 1.0), (0.99, 1.0)],
)
def test_warm_up_waits_then_rises_straight(progress: float, share: float) -> None:
    assert WarmUp(8.0, delay=0.2, rise=0.4)(state(progress=progress)) == pytest.approx(8.0 * share)


@each_schedule
@pytest.mark.parametrize("weight", [True, "2", None, math.nan, math.inf, -1.0])
def test_a_weight_is_a_number(kind: Any, weight: Any) -> None:
    with pytest.raises(SpecError, match=r"finite penalty weight >= 0, got"):
        kind(weight)


def test_warm_up_by_default() -> None:
    """No weight for a tenth of the stage, the full one from two fifths on."""
    schedule = WarmUp(2.0)
    assert schedule(state(progress=0.099)) == 0.0
    assert schedule(state(progress=0.25)) == pytest.approx(1.0)
    assert schedule(state(progress=0.401)) == 2.0


@pytest.mark.parametrize("progress", [0.0, 0.2, 1.0])
def test_nothing_warms_up_again_where_a_stage_goes_on(progress: float) -> None:
    state = TrainState(0, 0, progress, 0.1, stage="fine_tune", continues=True)
    assert WarmUp(0.7)(state) == 0.7
    assert LearningRateCoupled(0.7)(state) == pytest.approx(0.007), "coupled from its first epoch on"


def test_warm_up_without_a_rise_is_a_step() -> None:
    schedule = WarmUp(3.0, delay=0.5, rise=0.0)
    assert [schedule(state(progress=at)) for at in (0.0, 0.49, 0.5, 0.9)] == [0.0, 0.0, 3.0, 3.0]
    assert WarmUp(3.0, delay=0.0, rise=0.0)(state(progress=0.0)) == 3.0


@settings(deadline=None, max_examples=25)
@given(weights, st.floats(0.0, 1.5), st.floats(0.0, 1.5), progresses, progresses)
def test_warm_up_never_falls_and_never_exceeds(
    weight: float, delay: float, rise: float, first: float, second: float
) -> None:
    schedule = WarmUp(weight, delay, rise)
    early, late = (schedule(state(progress=at)) for at in sorted((first, second)))
    assert 0.0 <= early <= late <= weight


@settings(deadline=None, max_examples=25)
@given(progresses, st.integers(0, 300), st.floats(1e-6, 1.0))
def test_warm_up_depends_on_the_share_alone(progress: float, epoch: int, lr: float) -> None:
    """So that it means the same in a short and in a long run."""
    assert WarmUp(2.0)(state(progress=progress, epoch=epoch, lr=lr)) == WarmUp(2.0)(state(progress=progress))


@pytest.mark.parametrize(
    ("lr", "factor"),
    [
        (0.05, 0.02),
        (0.01, 0.1),
        (1e-3, 1.0),
        (5e-4, 2.0),  # above the full weight, as in the released code
        (4.1e-4, 1.0 / 0.41),
        (4.09e-4, 1.0),
        (1e-5, 1.0),
        (0.0, 1.0),
    ],
)
def test_learning_rate_coupled_at_its_key_points(lr: float, factor: float) -> None:
    assert LearningRateCoupled(16.0)(state(lr=lr)) == pytest.approx(16.0 * factor)


@pytest.mark.parametrize("epoch", [0, 3])
def test_learning_rate_coupled_needs_a_rate(epoch: int) -> None:
    with pytest.raises(SpecError, match=r"lr=optimiser\.param_groups\[0\]"):
        LearningRateCoupled(16.0)(TrainState(epoch, 0, 0.5, None))


@pytest.mark.parametrize("lr", [0.05, 1e-3, 1e-5])
def test_learning_rate_coupled_leaves_out_the_first_epoch(lr: float) -> None:
    schedule = LearningRateCoupled(16.0)
    assert schedule(state(epoch=0, step=99, progress=0.9, lr=lr)) == 0.0
    assert schedule(state(epoch=1, step=0, progress=0.01, lr=lr)) > 0.0


@settings(deadline=None, max_examples=25)
@given(st.floats(4.1e-4, 1.0))
def test_learning_rate_coupled_keeps_weight_times_rate(lr: float) -> None:
    """While the rate is high, a step of the penalty is as large at every rate."""
    assert LearningRateCoupled(16.0)(state(lr=lr)) * lr == pytest.approx(0.016)


@each_schedule
@pytest.mark.parametrize("weight", [-1e-9, math.nan, math.inf])
def test_weights_that_cannot_be_meant(kind: type[Schedule], weight: float) -> None:
    with pytest.raises(SpecError, match="penalty weight"):
        kind(weight)


@each_schedule
def test_no_weight_is_no_weight(kind: type[Schedule]) -> None:
    for epoch, progress, lr in ((0, 0.0, 0.1), (1, 0.2, 6e-4), (9, 0.99, 1e-5)):
        assert kind(0.0)(state(epoch=epoch, progress=progress, lr=lr)) == 0.0


@pytest.mark.parametrize("times", [{"delay": -0.1}, {"rise": -0.1}])
def test_negative_shares_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="delay and rise >= 0"):
        WarmUp(1.0, **times)


@each_schedule
def test_schedules_are_values(kind: type[Schedule]) -> None:
    assert kind(2.0) == kind(2.0)
    assert kind(2.0) != kind(3.0)
    with pytest.raises(FrozenInstanceError):
        kind(2.0).weight = 5.0


# ------------------------------------------------------------------------------------------------ under a budget

BUDGET = Budget(points=1.0, term="penalty")
KEPT, BROKEN = 0.90, 0.85


def after(*validations: float, reference: float | None = 0.90) -> TrainState:
    return TrainState(len(validations), 0, 0.5, 0.01, validations=validations, reference=reference)


@pytest.mark.parametrize(
    ("validations", "expected"),
    [
        ((), 0.5),
        ((KEPT,), 1.0),
        ((KEPT, KEPT), 2.0),
        ((BROKEN,), 0.25),
        ((BROKEN, BROKEN), 0.125),
        ((KEPT, BROKEN), 1.0 / 2**0.5),
        ((KEPT, BROKEN, BROKEN), 0.5),
        ((KEPT, BROKEN, KEPT), 1.0 / 2**0.5 * 1.25),  # a fourth root of 2 is under the smallest factor
        ((KEPT, BROKEN, KEPT, BROKEN), 1.0 / 2**0.5),
    ],
)
def test_a_kept_budget_raises_the_weight_and_a_broken_one_lowers_it(
    validations: tuple[float, ...], expected: float
) -> None:
    assert Budgeted(0.5, BUDGET)(after(*validations)) == pytest.approx(expected)


def test_the_edge_of_the_budget_keeps_it() -> None:
    """In spite of rounding: accuracies are means in single precision."""
    assert BUDGET.keeps(float(torch.tensor(0.89)), float(torch.tensor(0.90)))
    assert not BUDGET.keeps(0.88999, 0.90)
    assert Budget(0.0, "penalty").keeps(0.9, 0.9)


def test_the_weight_stays_within_its_span() -> None:
    schedule = Budgeted(0.5, BUDGET, span=10.0)
    assert schedule(after(*[KEPT] * 50)) == 5.0
    assert schedule(after(*[BROKEN] * 50)) == 0.05
    assert schedule(after(*[KEPT] * 50, BROKEN)) < 5.0


def test_without_a_reference_there_is_no_weight() -> None:
    assert Budgeted(0.5, BUDGET)(after(KEPT, KEPT, reference=None)) == 0.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 1.0), max_size=40), st.floats(0.0, 1.0))
def test_the_weight_is_a_fold(validations: list[float], reference: float) -> None:
    """One more epoch moves the weight by a factor in the right direction, from any history."""
    schedule = Budgeted(0.5, BUDGET)
    weights = [schedule(after(*validations[:count], reference=reference)) for count in range(len(validations) + 1)]
    assert all(0.5 / 1000 <= weight <= 0.5 * 1000 for weight in weights)
    for score, before, now in zip(validations, weights[:-1], weights[1:], strict=True):
        low, high = (1.0, 2.0) if BUDGET.keeps(score, reference) else (0.5, 1.0)
        assert low * (1 - 1e-9) <= now / before <= high * (1 + 1e-9)


@pytest.mark.parametrize("points", [-0.1, 100, math.nan, math.inf, "0.5", True, None])
def test_budgets_that_cannot_be_meant(points: Any) -> None:
    with pytest.raises(SpecError, match=r"expected a budget of 0 <= points < 100, got .*: give percentage points"):
        Budget(points, "penalty")


@pytest.mark.parametrize("changes", [{"factor": 1.0}, {"smallest_factor": 1.0}, {"factor": 1.1}, {"span": 1.5}])
def test_factors_that_cannot_be_meant(changes: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="1 < smallest_factor <= factor < span"):
        Budgeted(0.5, BUDGET, **changes)


def test_a_budget_needs_a_weight_to_start_from() -> None:
    with pytest.raises(SpecError, match="expected a first weight > 0"):
        Budgeted(0.0, BUDGET)
