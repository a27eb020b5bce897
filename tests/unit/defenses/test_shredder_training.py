"""Shredder's noise is in an optimiser, and it alone in its stage."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec, Stage
from splitveil.defenses import shredder
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.experiments.building import build_protected
from splitveil.nets.small import small
from splitveil.rng import Rng
from splitveil.schedules import Constant, InStage
from splitveil.split_model import SplitModel
from training_fixtures import SETTINGS, make_trainer


def noise_of(model: SplitModel) -> LearnedNoise:
    assert isinstance(model.mechanism, Chain)
    found = model.mechanism.mechanisms[-1]
    assert isinstance(found, LearnedNoise)
    return found


def trained(weight: float) -> tuple[SplitModel, dict[str, Tensor]]:
    """The model, and what it was when the noise began to learn."""
    defense = shredder(weight=weight, noise_std=0.1)
    with Rng(0).scoped():
        parts = small(classes=2, input_shape=(1, 6, 6), width=0.5, bottleneck=4)
    model, penalties = build_protected(parts, defense, 2, Rng(0))
    before: dict[str, Tensor] = {}

    def look(whole: nn.Module) -> None:
        before.update({name: value.detach().clone() for name, value in whole.named_parameters()})

    network, noise = defense.stages()
    stages = (network, Stage(noise.name, noise.share, noise.parts, look, lr_schedule=noise.lr_schedule))
    settings = SETTINGS.model_copy(update={"epochs": 16})
    make_trainer(model, penalties=penalties, stages=stages, settings=settings).run()
    return model, before


def test_in_its_stage_the_noise_moves_and_nothing_else() -> None:
    model, before = trained(0.5)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"mechanism.parts.1.location", "mechanism.parts.1.log_std"}


def test_before_its_stage_the_noise_stands_still() -> None:
    with Rng(0).scoped():
        parts = small(classes=2, input_shape=(1, 6, 6), width=0.5, bottleneck=4)
    fresh, _ = build_protected(parts, shredder(noise_std=0.1), 2, Rng(0))
    _, before = trained(0.5)
    torch.testing.assert_close(before["mechanism.parts.1.log_std"], noise_of(fresh).log_std.detach())


def test_at_the_default_weight_a_stage_of_a_few_epochs_moves_it() -> None:
    """No task holds it here: the growth is that of the term, not of decay towards a deviation of one."""

    def grown(weight: float) -> float:
        noise, steps = LearnedNoise(FeatureSpec.of((8, 8, 8)), noise_std=0.1), 300
        optimiser = torch.optim.SGD(noise.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
        for _ in range(steps):
            optimiser.zero_grad()
            (-weight * noise.std.square().mean().log()).backward()
            optimiser.step()
        return float(noise.std.detach().mean()) / 0.1

    default = shredder().penalties[0].schedule
    assert isinstance(default, InStage)
    assert isinstance(default.schedule, Constant)
    with Rng(0).scoped():
        assert grown(default.schedule.weight) > 1.5
        assert grown(0.0) < 1.1


def test_its_gradient_is_scaled_and_its_value_is_not() -> None:
    noise = LearnedNoise(FeatureSpec.of((3, 2, 2)), noise_std=0.1)
    torch.testing.assert_close(noise.std, noise.log_std.exp())
    noise.std.sum().backward()
    torch.testing.assert_close(noise.log_std.grad, 12**0.5 * noise.log_std.exp())


@pytest.mark.parametrize("side", [4, 16])
def test_without_clipped_gradients_it_stays_within_reason(side: int) -> None:
    """As in the recipe `full`: a task that reads every feature, batches of 64, a rate of 0.05."""
    generator = Rng(4).generator()
    size = 8 * side**2
    with Rng(0).scoped():
        noise = LearnedNoise(FeatureSpec.of((8, side, side)), noise_std=0.1)
    reader = torch.randn(size, 10, generator=generator) / size**0.5
    centres = torch.rand(10, size, generator=generator)
    optimiser = torch.optim.SGD(noise.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(300):
        y = torch.randint(0, 10, (64,), generator=generator)
        z = centres[y] + 0.1 * torch.randn(64, size, generator=generator)
        r = noise(z.reshape(64, 8, side, side), (torch.randn(64, 8, side, side, generator=generator),))
        loss = nn.functional.cross_entropy(4 * (r.flatten(1) - centres.mean(0)) @ reader, y)
        optimiser.zero_grad()
        (loss - 0.1 * noise.std.square().mean().log()).backward()
        optimiser.step()
    std = noise.std.detach()
    assert 0.001 < float(std.min()) < float(std.max()) < 10.0
    assert float(std.mean()) > 0.1


def test_without_weight_it_does_not_grow() -> None:
    """Weight decay would pull the logarithm of the deviation to 0, and so the deviation to 1."""
    with Rng(0).scoped():
        parts = small(classes=2, input_shape=(1, 6, 6), width=0.5, bottleneck=4)
    model, penalties = build_protected(parts, shredder(weight=0.0, noise_std=0.1), 2, Rng(0))
    noise = noise_of(model)
    before = noise.log_std.detach().clone()
    settings = SETTINGS.model_copy(update={"epochs": 4, "weight_decay": 0.5, "lr": 1e-6})
    stages = tuple(Stage(parts=("mechanism",), lr_schedule="constant") for _ in range(1))
    make_trainer(model, penalties=penalties, stages=stages, settings=settings).run()
    torch.testing.assert_close(noise.log_std.detach(), before, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_more_it_weighs_the_more_noise(weight: float) -> None:
    little, much = (float(noise_of(trained(value)[0]).std.detach().square().mean()) for value in (0.05, weight))
    assert much > little
