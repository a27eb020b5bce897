"""Bounds from slopes, for pictures and channels whose least error is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attack_fixtures import model, table
from splitveil.bounds.entropy import PrincipalAxes, dither
from splitveil.certificates.channel import Channel
from splitveil.certificates.slopes import SlopeSettings, fit_score, slope_estimates
from splitveil.data.loader import Pictures
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.rng import Rng

SPREAD, NOISE, SMOOTHING = 0.15, 0.1, 0.1


def white(n: int, seed: int) -> Pictures:
    """Gaussian pixels, independent of each other: the score is linear, the least error known."""
    x = 0.5 + SPREAD * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return table((255 * x).round().clamp(0, 255).to(torch.uint8))


def channel(*after: nn.Module) -> Channel:
    """Pixels as they are, and noise."""
    found = Channel.of(
        model(Chain(Clip(-9.0, 9.0), Gaussian(NOISE)), nn.Sequential(nn.Identity(), *after)), white(4, 0)
    )
    assert found is not None
    return found


SETTINGS = SlopeSettings(smoothing=SMOOTHING, directions=64, pictures=512, epochs=30, channels=8)


@pytest.mark.long
def test_the_score_of_gaussian_pictures_is_found() -> None:
    net = fit_score(white(1000, 1), SETTINGS, Rng(0))
    x = white(200, 2).get(torch.arange(200))[0]
    y = x + SMOOTHING * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        score = -net(y) / SMOOTHING
    true = -(y - 0.5) / (SPREAD**2 + SMOOTHING**2)
    assert float((score - true).square().mean() / true.square().mean()) < 0.1


def test_on_a_gaussian_linear_channel_the_estimates_are_near_the_least_error_and_in_order() -> None:
    held, known = white(600, 5), white(1000, 1)
    axes = PrincipalAxes.fit(dither(known.images, Rng(0)))
    found = {item.name: item for item in slope_estimates(channel(), known, held, axes, SETTINGS, rng=Rng(0))}
    prior = SPREAD**2 + SMOOTHING**2
    smoothed = 1 / (1 / prior + 1 / NOISE**2)  # of pictures with the smoothing noise in them
    least = max(0.0, math.sqrt(smoothed) - SMOOTHING) ** 2
    reached = 1 / (1 / SPREAD**2 + 1 / NOISE**2)
    for name in ("fisher", "spectrum"):
        assert found[name].value <= reached
        assert found[name].value == pytest.approx(least, abs=5e-4)
        assert found[name].low is not None
        assert found[name].low <= found[name].value
    assert found["unbiased"].value == pytest.approx(NOISE**2, rel=0.02)


@pytest.mark.long
def test_with_little_smoothing_they_are_not_vacuous() -> None:
    settings = SlopeSettings(smoothing=0.03, directions=64, pictures=512, epochs=30, channels=8)
    held, known = white(600, 5), white(1000, 1)
    axes = PrincipalAxes.fit(dither(known.images, Rng(0)))
    found = {item.name: item for item in slope_estimates(channel(), known, held, axes, settings, rng=Rng(0))}
    reached = 1 / (1 / SPREAD**2 + 1 / NOISE**2)
    assert 0.2 * reached < found["spectrum"].value < reached


def test_more_observations_leave_less_error() -> None:
    held, known = white(200, 5), white(200, 1)
    axes = PrincipalAxes.fit(dither(known.images, Rng(0)))
    settings = SlopeSettings(smoothing=0.02, directions=16, pictures=64, epochs=2, channels=4)
    one, many = (
        slope_estimates(channel(), known, held, axes, settings, observations=n, rng=Rng(0))[2].value for n in (1, 4)
    )
    assert one == pytest.approx(4 * many)


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (255 * x).round() / 255 - x.detach()  # as if straight through: its slope is not its step


def test_features_that_jump_are_refused() -> None:
    held, known = white(64, 5), white(64, 1)
    axes = PrincipalAxes.fit(dither(known.images, Rng(0)))
    with pytest.raises(SpecError, match="leave the Fisher"):
        slope_estimates(channel(Steps()), known, held, axes, SETTINGS, rng=Rng(0))


@pytest.mark.parametrize("changed", [{"smoothing": 0.0}, {"directions": 0}, {"pictures": 1}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="expected"):
        SlopeSettings(**changed)  # type: ignore[arg-type]
