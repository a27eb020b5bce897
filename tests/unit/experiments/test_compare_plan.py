"""What a comparison runs: every combination that a defense knows, each once, under a name that its numbers decide."""

from __future__ import annotations

import math
from typing import Any

import pytest

from splitveil.errors import SpecError, UnknownNameError
from splitveil.experiments.api import make_spec
from splitveil.experiments.compare.plan import cell_of, expand
from splitveil.experiments.recipes import load_recipe
from splitveil.specs import PlugInSpec, RunSpec


def spec(defense: str = "gaussian", seed: int = 0, **params: Any) -> RunSpec:
    made = make_spec("digits", defense=PlugInSpec(name=defense, params=params), recipe=load_recipe("tiny"), seed=seed)
    return made.model_copy(update={"data": made.data.model_copy(update={"digest": "a" * 64})})


ATTACK = PlugInSpec(name="decoder", params={"epochs": 2})


def test_shared_values_go_to_all_that_know_them_and_owned_values_to_one() -> None:
    grid = {"noise_std": [0.1, 0.2], "cem.weight": [1, 2]}
    points = [(item.name, item.params) for item in expand(["none", "gaussian", "cem"], grid)]
    assert points == [
        ("none", {}),
        ("gaussian", {"noise_std": 0.1}),
        ("gaussian", {"noise_std": 0.2}),
        ("cem", {"noise_std": 0.1, "weight": 1}),
        ("cem", {"noise_std": 0.1, "weight": 2}),
        ("cem", {"noise_std": 0.2, "weight": 1}),
        ("cem", {"noise_std": 0.2, "weight": 2}),
    ]


def test_an_owned_value_replaces_the_shared_ones() -> None:
    points = expand(["gaussian", "cem"], {"noise_std": [0.1], "cem.noise_std": [0.3]})
    assert [item.params for item in points] == [{"noise_std": 0.1}, {"noise_std": 0.3}]


@pytest.mark.parametrize(
    ("defenses", "grid", "error", "part"),
    [
        ([], {}, SpecError, "different defenses"),
        (["cem", "cem"], {}, SpecError, "cem, cem"),
        (["cen"], {}, UnknownNameError, "did you mean 'cem'"),
        (["gaussian"], {"weight": [1]}, UnknownNameError, "weight"),
        (["gaussian"], {"cem.weight": [1]}, UnknownNameError, "'cem'"),
        (["cem"], {"wieght": [1]}, UnknownNameError, "did you mean 'weight'"),
        (["cem"], {"weight": []}, SpecError, "weight"),
        (["cem"], {"weight": [1, 1]}, SpecError, "weight"),
        (["cem"], {"weight": [1, 1.0]}, SpecError, "different"),
        (["cem"], {"weight": [0.1, ""]}, SpecError, "none of them empty"),
        (["cem"], {"noise_std": [0.1, "much"]}, SpecError, "noise_std.*'much'"),
        (["cem"], {"weight": ["much"]}, SpecError, "'much'"),
        (["cem"], {"weight": [math.nan]}, SpecError, "finite"),
        (["cem"], {"noise_std": [math.inf]}, SpecError, "finite"),
        (["cem"], {"noise_std": [0.1, -1]}, SpecError, "noise_std"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(
    defenses: list[str], grid: dict[str, list[Any]], error: type[Exception], part: str
) -> None:
    with pytest.raises(error, match=part):
        expand(defenses, grid)


def test_the_name_follows_what_decides_the_numbers() -> None:
    first = cell_of(spec(noise_std=0.1), ATTACK)
    assert first.name.startswith("gaussian-")
    moved = spec(noise_std=0.1)
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"path": "/elsewhere"})})
    assert cell_of(moved, ATTACK).name == first.name
    others = [
        cell_of(spec(noise_std=0.2), ATTACK),
        cell_of(spec(noise_std=0.1, seed=1), ATTACK),
        cell_of(spec(noise_std=0.1), PlugInSpec(name="decoder", params={"epochs": 3})),
    ]
    assert len({first.name, *(item.name for item in others)}) == 4


def test_pictures_without_a_seal_are_refused() -> None:
    plain = make_spec("digits", defense=PlugInSpec(name="none"), recipe=load_recipe("tiny"))
    with pytest.raises(SpecError, match="digest"):
        cell_of(plain, ATTACK)


def test_a_sum_of_defenses_takes_the_parameters_of_both() -> None:
    grid = {
        "noise_std": [0.1],
        "gaussian+conditional_entropy.conditional_entropy.weight": [0.1, 0.2],
        "conditional_entropy.covariance": ["isotropic"],
    }
    found = expand(["gaussian", "gaussian+conditional_entropy"], grid)
    assert [(item.name, item.params) for item in found] == [
        ("gaussian", {"noise_std": 0.1}),
        *(
            (
                "gaussian+conditional_entropy",
                {
                    "noise_std": 0.1,
                    "conditional_entropy.weight": weight,
                    "conditional_entropy.covariance": "isotropic",
                },
            )
            for weight in (0.1, 0.2)
        ),
    ]
    with pytest.raises(UnknownNameError, match="defense of the grid 'cem'"):
        expand(["gaussian+conditional_entropy"], {"cem.weight": [1]})
    with pytest.raises(UnknownNameError, match="parameter of the grid"):
        expand(["gaussian+conditional_entropy"], {"conditional_entropy.wait": [1]})
