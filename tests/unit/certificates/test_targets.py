"""Backwards: the noise that a target needs brings the bound to the target, and no less noise does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attack_fixtures import model
from splitveil.bounds import blocks, capacity_box, identification, identification_information, undithered
from splitveil.bounds.entropy import gaussian_profile
from splitveil.certificates.channel import Channel, Features
from splitveil.certificates.information import fit_bounds, information_certificates
from splitveil.certificates.targets import (
    information_for_error,
    noise_for_information,
)
from splitveil.errors import SpecError
from splitveil.rng import Rng

Q = 3


def features(n: int, seed: int) -> Features:
    z = torch.rand(n, Q, generator=torch.Generator().manual_seed(seed))
    return Features(z, torch.arange(n) % 2)


CHANNEL = Channel(model(), torch.full((Q,), 0.1, dtype=torch.float64), (0.0, 1.0))


@pytest.mark.parametrize("target", [0.5, 3.0])
def test_under_the_noise_that_is_named_the_bound_says_the_target(target: float) -> None:
    bounds, held = fit_bounds(features(400, 0), 2, Rng(0)), features(20_000, 1)
    found = {item.method: item for item in noise_for_information(CHANNEL, target, bounds, held)}
    assert list(found) == ["capacity", "mixture", "gaussian_channel"]
    capacity = found["capacity"].noise_std
    assert capacity is not None
    assert capacity_box(Q, 1.0, capacity) <= target < capacity_box(Q, 1.0, 0.99 * capacity)
    assert found["capacity"].keeps
    if target < np.log(10):  # ten clusters, of which the mixture says which one, whatever the noise
        assert found.pop("mixture").noise_std is None
    for item in found.values():
        assert item.information_nats <= target
        assert item.information_nats == pytest.approx(target, rel=0.02)
    gaussian = found["gaussian_channel"]
    assert gaussian.noise_std is not None
    assert gaussian.noise_std < capacity
    assert not gaussian.keeps


def test_more_observations_need_more_noise() -> None:
    one, many = (noise_for_information(CHANNEL, 1.0, observations=n)[0].noise_std for n in (1, 16))
    assert one is not None
    assert many == pytest.approx(4 * one, rel=1e-3)


def test_what_held_out_pictures_cannot_show_is_said() -> None:
    """Twenty pictures: the confidence term alone is larger than the target."""
    found = noise_for_information(CHANNEL, 0.01, fit_bounds(features(400, 0), 2, Rng(0)), features(20, 1))
    assert found[0].noise_std is not None
    assert found[1].noise_std is None
    assert found[1].information_nats > 0.01


def test_a_name_and_an_error_as_information() -> None:
    nats = identification_information(0.5, 10_000)
    assert identification(nats, 10_000) == pytest.approx(0.5)
    profile = gaussian_profile(np.random.default_rng(0).normal(size=(500, 4)) * [0.3, 0.2, 0.1, 0.05])
    nats = information_for_error(0.01, profile)
    assert undithered(blocks(profile.nats, profile.sizes, nats)) == pytest.approx(0.01)


def test_what_cannot_be_had_is_refused_with_the_best_that_can() -> None:
    profile = gaussian_profile(np.random.default_rng(0).normal(size=(500, 4)) * 0.1)
    with pytest.raises(SpecError, match=r"at most 0\.00\d+ \(PSNR 2\d\.\d dB\)"):
        information_for_error(0.5, profile)
    with pytest.raises(SpecError, match="above chance"):
        identification_information(0.001, 100)
    with pytest.raises(SpecError, match="target above 0"):
        noise_for_information(CHANNEL, 0.0)
    with pytest.raises(SpecError, match="use a defense with a clip"):
        noise_for_information(Channel(CHANNEL.model, CHANNEL.std, None), 1.0)
    with pytest.raises(SpecError, match="use a defense with a clip"):
        noise_for_information(None, 1.0)


def test_the_noise_does_not_depend_on_what_the_mixture_was_used_for_before() -> None:
    bounds, held = fit_bounds(features(400, 0), 2, Rng(0)), features(500, 1)
    first = noise_for_information(CHANNEL, 1.0, bounds, held)
    information_certificates(CHANNEL, 16, bounds, held, observations=7)
    assert noise_for_information(CHANNEL, 1.0, bounds, held) == first


def test_the_card_at_the_noise_that_is_named_says_no_more_than_the_target() -> None:
    bounds, held = fit_bounds(features(400, 0), 2, Rng(0)), features(2000, 1)
    for item in noise_for_information(CHANNEL, 3.0, bounds, held):
        assert item.noise_std is not None
        noisy = replace(CHANNEL, std=torch.full((Q,), item.noise_std, dtype=torch.float64))
        card = {found.name: found.value for found in information_certificates(noisy, 16, bounds, held)}
        assert card[item.method] <= 3.0
