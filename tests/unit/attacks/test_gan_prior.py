"""Searching among what a generator draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attack_fixtures import KEY, auxiliary, mse, smooth, subject, table, view_of
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.gan_prior import GanPrior, GeneratorPrior
from splitveil.attacks.optimise import Optimise
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.nets.generator import Critic, Generator
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

SMALL: dict[str, Any] = {"latent": 8, "channels": 8, "epochs": 8, "batch_size": 32, "generator_lr": 2e-3}


def test_it_breaks_a_head_that_hides_nothing() -> None:
    attacked = subject()
    view = view_of(attacked, pictures=auxiliary(256))
    found = mse(GanPrior(**SMALL, steps=150, reach=2.0).fit(view, KEY), attacked, 32)
    assert found < 0.25 * mse(MeanImage().fit(view, KEY), attacked, 32)
    assert view.queries == 0


def test_its_pictures_are_smoother_than_those_of_a_search_without_a_prior() -> None:
    attacked = subject(Gaussian(0.3))
    view = view_of(attacked, pictures=auxiliary(256))
    r = attacked.release(table(smooth(16, "test")).get(torch.arange(16))[0], SeededNoise(KEY))
    drawn = GanPrior(**SMALL, steps=60).fit(view, KEY).invert(r)
    free = Optimise(prior="none", steps=60).fit(view, KEY).invert(r)

    def roughness(x: torch.Tensor) -> float:
        return float((x[..., 1:, :] - x[..., :-1, :]).abs().mean())

    assert roughness(drawn) < 0.7 * roughness(free)


@pytest.mark.parametrize("picture", [(1, 8, 8), (3, 32, 32), (1, 28, 20), (3, 5, 7)])
def test_generator_and_critic_take_pictures_of_any_size(picture: tuple[int, int, int]) -> None:
    generator, critic = Generator(picture, latent=4, channels=2), Critic(picture, channels=2)
    drawn = generator(torch.randn(3, 4))
    assert drawn.shape == (3, *picture)
    assert critic(drawn).shape == (3,)
    assert generator.begin(torch.randn(3, 4)).shape[1:] == generator.opening


def test_the_prior_is_a_normal_latent_and_an_offset_that_costs_more() -> None:
    prior = GeneratorPrior(Generator((1, 8, 8), latent=3, channels=2).eval(), weight=2.0, spread=1.0, reach=0.5)
    w = prior.start(2, Rng(0).generator(), 1.0)
    assert float(prior.energy(w)[0]) == pytest.approx(float(w[0, :3].square().sum()))
    w[:, 3] += 1.0
    moved = float(w[0, :3].square().sum()) + 1 / 0.5**2
    assert float(prior.energy(w)[0]) == pytest.approx(moved)


@pytest.mark.parametrize("changed", [{"latent": 0}, {"reach": 0.0}, {"prior_weight": -1.0}, {"batch_size": 1}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        GanPrior(**changed)
