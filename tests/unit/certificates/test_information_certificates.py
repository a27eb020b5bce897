"""Upper bounds on the information in a release: above the truth, with their confidence, and the tightest chosen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attack_fixtures import auxiliary, model, noisy
from splitveil.bounds import Certificate, capacity_box, held_out_information, information_bound
from splitveil.certificates import information
from splitveil.certificates.channel import Channel, Features
from splitveil.certificates.information import (
    FittedBound,
    fit_bounds,
    information_certificates,
    tightest,
)
from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.rng import Rng

STD, Q = 0.3, 4


def features(n: int, seed: int) -> Features:
    """Gaussian in a box that it hardly leaves, so that the truth is known."""
    z = 0.5 + 0.12 * torch.randn(n, Q, generator=torch.Generator().manual_seed(seed))
    return Features(z.clamp(0, 1), torch.arange(n) % 2)


TRUE = 0.5 * Q * math.log1p((0.12 / STD) ** 2)


def channel() -> Channel:
    return Channel(model(), torch.full((Q,), STD, dtype=torch.float64), (0.0, 1.0))


def bounds(n: int = 4000, seed: int = 0) -> list[FittedBound]:
    return fit_bounds(features(n, seed), 2, Rng(0))


def test_each_lies_above_the_truth_and_the_gaussian_one_is_near_it() -> None:
    found = {item.name: item for item in information_certificates(channel(), 16, bounds(), features(20_000, 1))}
    assert list(found) == ["payload", "capacity", "mixture", "gaussian_channel"]
    assert all(item.value > TRUE for item in found.values())
    assert found["gaussian_channel"].value < TRUE + 0.1
    assert found["payload"].value == pytest.approx(128 * math.log(2))
    assert found["capacity"].value == pytest.approx(capacity_box(Q, 1.0, STD))
    assert found["mixture"].n == 20_000
    assert found["payload"].confidence == 1.0
    assert found["mixture"].confidence == 0.999


def test_features_too_wide_for_a_full_covariance_get_one_of_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(information, "_WIDEST", Q - 1)
    found = {item.name: item for item in information_certificates(channel(), 16, bounds(), features(20_000, 1))}
    assert TRUE < found["gaussian_channel"].value < TRUE + 0.1
    with monkeypatch.context() as patch:
        patch.setattr(information, "_RANK", 1)
        assert bounds()[1].mixture.covariance == "low_rank"


def test_n_observations_are_one_at_a_smaller_noise() -> None:
    fitted, held = bounds(), features(1000, 1)
    many = information_certificates(channel(), 16, fitted, held, observations=9)
    sharper = Channel(model(), torch.full((Q,), STD / 3, dtype=torch.float64), (0.0, 1.0))
    once = information_certificates(sharper, 16, fitted, held)
    for left, right in zip(many[1:], once[1:], strict=True):
        assert left.value == pytest.approx(right.value, rel=1e-6)
        assert left.observations == 9
    assert many[0].value == 9 * once[0].value


def test_more_noise_tells_less() -> None:
    fitted, held = bounds(), features(1000, 1)

    def told(std: float) -> list[float]:
        drawn = Channel(model(), torch.full((Q,), std, dtype=torch.float64), (0.0, 1.0))
        return [item.value for item in information_certificates(drawn, 16, fitted, held)[1:]]

    for low, high in zip(told(0.1), told(0.4), strict=True):
        assert high < low


def test_the_stated_confidence_holds_and_that_of_the_sample_itself_does_not() -> None:
    """200 resamplings: how often a limit lies below the information of the channel, which is known."""
    missed, believed = 0, 0
    for seed in range(200):
        fitted = features(60, 1000 + seed)
        [bound] = [item for item in fit_bounds(fitted, 2, Rng(0)) if item.name == "gaussian_channel"]
        variance = torch.full((Q,), STD**2, dtype=torch.float64)
        held = bound.upper(features(200, 5000 + seed), variance, 1.0, 0.95)
        missed += held.upper_nats < TRUE
        inside = information_bound(fitted.mean, variance.float(), torch.zeros(60).long(), bound.mixture)
        believed += float(inside.mean()) < TRUE
    assert missed <= 0.05 * 200
    assert believed > 0.3 * 200


def test_the_smaller_of_two_is_chosen_with_their_confidence_shared() -> None:
    found = information_certificates(channel(), 16, bounds(), features(2000, 1), confidence=0.9)
    by_hand = held_out_information(_terms(features(2000, 1)), 0.5 * Q * math.log1p(1 / (4 * STD**2)), confidence=0.95)
    [gaussian] = [item for item in found if item.name == "gaussian_channel"]
    assert gaussian.value == pytest.approx(by_hand.upper_nats, rel=1e-5)
    assert tightest(found).name == "gaussian_channel"
    assert tightest(found, any_gallery=True).name == "capacity"


def _terms(held: Features) -> Tensor:
    [bound] = [item for item in bounds() if item.name == "gaussian_channel"]
    bound.mixture.condition(torch.full((Q,), STD**2))
    labels = torch.zeros(len(held.mean)).long()
    return information_bound(held.mean, torch.tensor(STD**2), labels, bound.mixture)


def test_a_channel_is_read_off_the_mechanism() -> None:
    pictures = auxiliary(8)
    assert Channel.of(model(), pictures) is None
    unclipped = Channel.of(noisy(0.2), pictures)
    assert unclipped is not None
    assert unclipped.width is None
    assert [item.name for item in information_certificates(unclipped, 16)] == ["payload"]
    clipped = Channel.of(model(Chain(Clip(0.0, 1.0), Gaussian(0.2))), pictures)
    assert clipped is not None
    assert clipped.box == (0.0, 1.0)
    assert clipped.std is not None
    torch.testing.assert_close(clipped.std, torch.full((64,), 0.2, dtype=torch.float64), rtol=1e-6, atol=0.0)
    held = clipped.features(pictures)
    assert held.mean.shape == (8, 64)
    assert torch.equal(held.labels, pictures.labels)


class Depending(Mechanism):
    """Noise that grows with the feature."""

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        return (NoiseSpec("normal", z.shape, "standard_normal"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        return z

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z + (0.1 + z) * noises[0]

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        return GaussianChannel(z, 0.1 + z, (0.0, 1.0))


class Silent(Depending):
    """Declares noise, and adds none."""

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        return GaussianChannel(z, torch.zeros_like(z))


def test_noise_that_depends_on_the_picture_is_no_noise_of_one_size() -> None:
    found = Channel.of(model(Depending()), auxiliary(8))
    assert found is not None
    assert found.std is None
    assert [item.name for item in information_certificates(found, 16)] == ["payload"]


def test_without_any_noise_there_is_no_channel_to_speak_of() -> None:
    with pytest.raises(SpecError, match="deviation above 0"):
        Channel.of(model(Silent()), auxiliary(8))


def test_a_certificate_is_not_an_estimate() -> None:
    assert all(isinstance(item, Certificate) for item in information_certificates(channel(), 16))
