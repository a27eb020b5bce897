"""Defenses whose weight a budget decides: their stages, their JSON, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import splitveil as sv
from splitveil.cli.common import parse_options
from splitveil.contracts import Budget, FeatureSpec, Stage, TrainState
from splitveil.defenses import (
    Defense,
    cem,
    conditional_entropy,
    gaussian,
    laplace,
    load_defense,
    none,
    ressfl,
    shredder,
    vib,
)
from splitveil.defenses.budget import within_budget
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.schedules import Budgeted

SUM = gaussian(noise_std=0.2) + conditional_entropy(weight=2.0, budget_points=1)


@pytest.mark.parametrize("defense", [cem(budget_points=0.5), conditional_entropy(budget_points=0), SUM])
def test_a_reference_then_a_budget(defense: Defense) -> None:
    reference, budget = defense.stages()
    assert reference == Stage("reference")
    assert budget.budget is not None
    assert (budget.share, budget.lr_scale, budget.lr_schedule) == (0.5, 0.1, "constant")
    (penalty,) = defense.penalties
    assert isinstance(penalty.schedule, Budgeted)
    assert penalty.schedule.budget is budget.budget
    assert budget.budget.term == penalty.name
    assert budget.continues


def test_penalties_beside_it_that_warmed_up_keep_their_weight() -> None:
    """Or their lack, not CEM, would make what differs from the host alone."""
    defense = vib(weight=0.5) + conditional_entropy(weight=0.2, budget_points=1.0)
    stage = defense.stages()[1]
    host, _ = defense.penalties
    state = TrainState(0, 0, 0.0, 0.01, stage=stage.name, continues=stage.continues)
    assert host.schedule(state) == 0.5


def test_the_given_weight_is_the_first() -> None:
    assert SUM.penalties[0].schedule == Budgeted(2.0, Budget(1, "conditional_entropy"))


@pytest.mark.parametrize("defense", [cem(noise_std=0.05, budget_points=0.5), conditional_entropy(budget_points=3), SUM])
def test_json_gives_the_same_defense_back(defense: Defense) -> None:
    plain = json.loads(json.dumps(defense.to_json()))
    assert load_defense(plain["name"], plain["params"]) == defense


def test_from_the_command_line() -> None:
    assert load_defense("cem", parse_options(["budget_points=0.5"])) == cem(budget_points=0.5)


def test_without_a_budget_nothing_changes() -> None:
    assert cem().stages() == (Stage(),)
    assert "budget_points" not in cem().params


@pytest.mark.parametrize("preset", [cem, conditional_entropy])
@pytest.mark.parametrize("points", [-1, 100, math.nan, "0.5", True])
def test_budgets_that_cannot_be_meant(preset: Any, points: Any) -> None:
    with pytest.raises(SpecError, match="expected a budget of 0 <= points < 100"):
        preset(budget_points=points)


@pytest.mark.parametrize("preset", [cem, conditional_entropy])
@pytest.mark.parametrize("schedule", ["lr_coupled", "constant"])
def test_a_budget_and_a_schedule_exclude_each_other(preset: Any, schedule: str) -> None:
    with pytest.raises(SpecError, match=f"expected no schedule beside budget_points, got '{schedule}': .* leave out"):
        preset(schedule=schedule, budget_points=0.5)


def test_a_budget_needs_a_weight_to_start_from() -> None:
    with pytest.raises(SpecError, match="expected a first weight > 0"):
        cem(weight=0.0, budget_points=0.5)


def test_a_budget_is_for_one_penalty() -> None:
    with pytest.raises(SpecError, match="expected one penalty to put under a budget in 'none', got 0"):
        within_budget(none(), 0.5, weight=1.0)


def test_a_sum_has_the_stages_of_the_side_that_has_some() -> None:
    budgeted = conditional_entropy(budget_points=1)
    assert (gaussian() + budgeted).stages() == (budgeted + gaussian()).stages() == budgeted.stages()


def test_stages_from_both_sides_are_refused() -> None:
    first = conditional_entropy(budget_points=1)
    other = Defense("other", {}, plan=(Stage("one", 0.5), Stage("two", 0.5)))
    with pytest.raises(SpecError, match="expected the stages of one side of 'conditional_entropy\\+other'"):
        first + other


@pytest.mark.parametrize("host", [none(), laplace(), shredder(law="laplace")])
def test_what_needs_gaussian_noise_is_refused_before_it_trains(host: Defense) -> None:
    defense, spec = host + conditional_entropy(), FeatureSpec.of((4, 2, 2), range=(0.0, 1.0))
    with pytest.raises(SpecError, match=r"conditional_entropy expects a mechanism with Gaussian noise, got none in"):
        defense.build(spec, 3, Rng(0), (1, 8, 8))
    host.build(spec, 3, Rng(0), (1, 8, 8))


def test_a_run_without_gaussian_noise_leaves_its_folder_free(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expects a mechanism with Gaussian noise"):
        sv.train("small", "digits", laplace() + conditional_entropy(), out=tmp_path / "run", limit=160)
    assert not (tmp_path / "run").exists()


def test_two_kinds_of_noise_are_refused_with_a_cure_that_works() -> None:
    with pytest.raises(SpecError, match="give both the same noise_std"):
        gaussian(noise_std=0.1) + ressfl()
    assert (gaussian(noise_std=0.1) + ressfl(noise_std=0.1)).mechanisms == ressfl(noise_std=0.1).mechanisms
