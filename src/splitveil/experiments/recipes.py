"""Recipes: settings that go together, from seconds on a laptop to the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from splitveil.errors import SpecError
from splitveil.registry import RECIPES
from splitveil.specs import AugmentSpec, PlugInSpec, TrainingSpec

__all__ = ["Recipe", "full", "load_recipe", "quick", "tiny"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one scale.

    Args:
        model: registry name of the net.
        model_kwargs: for its factory.
        training: optimiser and schedule.
        attack: the decoder of this scale.
        limit: the most pictures to use, None for all.
        effort: how many times as long as usual its attackers learn and search.
    """

    model: str
    model_kwargs: Mapping[str, Any]
    training: TrainingSpec
    attack: PlugInSpec
    limit: int | None = None
    effort: int = 1
    #: keyword arguments of the net that only some nets know
    narrow: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_effort(self, effort: int) -> Recipe:
        """The same, with so many times the epochs for its attacker, and the steps for searches.

        Raises:
            SpecError: effort < 1.
        """
        if effort < 1:
            raise SpecError(f"expected an effort of at least 1, got {effort}: 2 lets attackers learn twice as long")
        params = dict(self.attack.params)
        if "epochs" in params:
            params["epochs"] *= effort
        return replace(self, attack=PlugInSpec(name=self.attack.name, params=params), effort=effort * self.effort)

    def kwargs_for(self, model: str) -> dict[str, Any]:
        """Keyword arguments for this net under this recipe."""
        return dict(self.model_kwargs if model == self.model else self.narrow.get(model, {}))


def load_recipe(name: str) -> Recipe:
    """A recipe by name."""
    return cast(Recipe, RECIPES.load(name)())


def tiny() -> Recipe:
    """A minute on two cores: the digits, and an attacker strong enough to beat ridge regression with 450 of them."""
    return Recipe(
        model="small",
        model_kwargs={},
        training=TrainingSpec(epochs=120, batch_size=64, augment=AugmentSpec(crop=1)),
        attack=PlugInSpec(
            name="decoder",
            params={"channels": 64, "blocks": 2, "epochs": 100, "batch_size": 32, "lr": 2e-3},
        ),
        narrow={"vgg11": {"width": 0.125}, "resnet20": {"width": 0.5}},
    )


def quick() -> Recipe:
    """About four minutes on two cores: a quarter-width VGG-11 on 12,000 pictures, a decoder of 32 channels."""
    return Recipe(
        model="vgg11",
        model_kwargs={"width": 0.25},
        training=TrainingSpec(epochs=24, batch_size=128, lr=0.02, augment=AugmentSpec(crop=4, flip=True)),
        attack=PlugInSpec(
            name="decoder",
            params={"channels": 32, "blocks": 2, "epochs": 40, "batch_size": 64, "lr": 2e-3},
        ),
        limit=12_000,
        narrow={"resnet20": {"width": 0.5}},
    )


def full() -> Recipe:
    """The paper's settings: 240 epochs of VGG-11, a decoder of 711,539 parameters; hours on a CPU, made for a GPU."""
    return Recipe(
        model="vgg11",
        model_kwargs={},
        training=TrainingSpec(
            epochs=240,
            batch_size=128,
            schedule="multistep",
            clip_norm=None,
            augment=AugmentSpec(crop=4, flip=True, rotation=15.0),
        ),
        attack=PlugInSpec(name="decoder", params={"channels": 64, "blocks": 8, "epochs": 50, "batch_size": 256}),
    )
