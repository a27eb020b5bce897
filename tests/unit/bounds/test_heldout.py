"""Held out, the bound holds: above the true information, with its confidence, also where the in-sample value is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from splitveil.bounds import capacity_ball, capacity_box, held_out_information, information_bound
from splitveil.errors import InputError, SpecError
from splitveil.mixtures import ClassMixture
from splitveil.rng import Rng

NOISE_STD = 0.3


def in_sample_and_held_out(fit: Tensor, rest: Tensor, clusters: int, covariance: str = "full") -> tuple[float, float]:
    """Mean bounds in nats of one mixture: on what it was fitted to, and on the rest."""
    mixture = ClassMixture(1, clusters, fit.shape[1], covariance)  # type: ignore[arg-type]
    mixture.fit(fit, None, Rng(0))
    mixture.condition(torch.tensor(NOISE_STD**2))
    noise = torch.tensor(NOISE_STD**2, dtype=fit.dtype)
    fitted, held = (information_bound(z, noise, torch.zeros(len(z)).long(), mixture).mean() for z in (fit, rest))
    return float(fitted), float(held)


def test_on_gaussian_features_only_the_held_out_value_is_a_bound() -> None:
    """64 dimensions, 40 samples, full covariances: in sample, the features look as if they had 40 dimensions."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(64, 64)) / 8.0
    true = 0.5 * np.linalg.slogdet(np.eye(64) + root @ root.T / NOISE_STD**2)[1]
    z = torch.from_numpy(rng.normal(size=(20_040, 64)) @ root.T)
    fitted, held = in_sample_and_held_out(z[:40], z[40:], clusters=1)
    assert fitted < 0.8 * true
    assert held > true


def test_on_features_that_are_points_too() -> None:
    """Strongly non-Gaussian: each picture is one of 4,096 far corners, so r tells which, ln 4096 nats."""
    rng = np.random.default_rng(1)
    corners = torch.from_numpy(rng.choice([-3.0, 3.0], size=(4096, 24)))
    z = corners[torch.from_numpy(rng.integers(0, 4096, 6000))]
    true = math.log(4096)  # the corners lie twenty noises apart in every dimension
    fitted, held = in_sample_and_held_out(z[:30], z[30:], clusters=30)
    assert fitted < true < held


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "low_rank", "full"])
def test_with_enough_samples_it_is_tight_on_gaussian_features(covariance: str) -> None:
    z = torch.from_numpy(np.random.default_rng(2).normal(size=(20_000, 8)) * 0.7)
    true = 4 * math.log1p((0.7 / NOISE_STD) ** 2)
    _, held = in_sample_and_held_out(z[:10_000], z[10_000:], clusters=1, covariance=covariance)
    assert true < held + 0.03
    assert held == pytest.approx(true, rel=0.03)


def uniform_information(q: int, noise_std: float) -> float:
    """I(z; z + noise) of z uniform in the unit cube, by quadrature of one dimension."""

    def density(r: float) -> float:
        return float(stats.norm.cdf(r / noise_std) - stats.norm.cdf((r - 1) / noise_std))

    entropy, _ = integrate.quad(
        lambda r: -density(r) * math.log(max(density(r), 1e-300)), -8 * noise_std, 1 + 8 * noise_std, limit=400
    )
    return q * (entropy - 0.5 * math.log(2 * math.pi * math.e * noise_std**2))


@pytest.mark.parametrize("n", [50, 2000])
def test_the_upper_limit_lies_above_the_information_of_uniform_features(n: int) -> None:
    """Over many draws; nominal 99.9 %, and the power ceiling above it."""
    q, noise_std = 6, 0.2
    true = uniform_information(q, noise_std)
    fit = torch.rand(4000, q, generator=Rng(0).generator(), dtype=torch.float64)
    mixture = ClassMixture(1, 8, q)
    mixture.fit(fit, None, Rng(0))
    mixture.condition(torch.tensor(noise_std**2))
    noise = torch.tensor(noise_std**2).double()
    ceiling = 0.5 * q * math.log1p(1 / (4 * noise_std**2))
    for seed in range(20):
        z = torch.rand(n, q, generator=Rng(seed).child("held").generator(), dtype=torch.float64)
        found = held_out_information(information_bound(z, noise, torch.zeros(n).long(), mixture), ceiling)
        assert true < found.upper_nats <= found.ceiling_nats
    if n == 2000:
        assert found.upper_nats < ceiling  # and says more than the capacity


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 400), st.floats(0.5, 0.9999))
def test_the_limit_is_the_formula(seed: int, n: int, confidence: float) -> None:
    bounds = np.random.default_rng(seed).exponential(20.0, size=n)
    ceiling = 60.0 - math.log(0.01)
    clipped = np.minimum(bounds - math.log(0.99), ceiling)
    term = math.log(2 / (1 - confidence))
    expected = clipped.mean() + math.sqrt(2 * clipped.var(ddof=1) * term / n) + 7 * ceiling * term / (3 * (n - 1))
    found = held_out_information(torch.from_numpy(bounds), 60.0, confidence=confidence)
    assert found.mean_nats == pytest.approx(clipped.mean())
    assert found.upper_nats == pytest.approx(min(expected, ceiling))
    assert (found.n, found.confidence) == (n, confidence)


def test_the_broad_component_caps_every_sample() -> None:
    """The divergence from a Gaussian over the box is largest at a corner, where it is the power ceiling."""
    q, width, noise_std = 5, 2.0, 0.4
    broad = width**2 / 4 + noise_std**2
    corner = 0.5 * q * (noise_std**2 / broad + (width / 2) ** 2 / broad - 1 + math.log(broad / noise_std**2))
    assert corner == pytest.approx(0.5 * q * math.log1p(width**2 / (4 * noise_std**2)))


def test_more_samples_say_more() -> None:
    bounds = torch.linspace(2.0, 8.0, 100).double()
    few, many = (held_out_information(bounds.repeat(times), 50.0).upper_nats for times in (1, 50))
    assert 5.0 < many < few


@pytest.mark.parametrize(
    ("bounds", "ceiling", "confidence", "error"),
    [
        (torch.ones(1), 10.0, 0.99, InputError),
        (torch.tensor([1.0, math.nan]), 10.0, 0.99, InputError),
        (torch.ones(5), math.inf, 0.99, SpecError),
        (torch.ones(5), 0.0, 0.99, SpecError),
        (torch.ones(5), 10.0, 1.0, SpecError),
    ],
)
def test_what_proves_nothing_is_refused(
    bounds: Tensor, ceiling: float, confidence: float, error: type[Exception]
) -> None:
    with pytest.raises(error, match="expected"):
        held_out_information(bounds, ceiling, confidence=confidence)


# ------------------------------------------------------------------------------------------------ capacity


@pytest.mark.parametrize("noise_std", [0.02, 0.1, 0.5, 2.0])
def test_capacity_of_the_box_lies_above_what_uniform_and_binary_features_carry(noise_std: float) -> None:
    capacity = capacity_box(1, 1.0, noise_std)
    assert uniform_information(1, noise_std) < capacity
    grid = np.linspace(-8 * noise_std, 1 + 8 * noise_std, 20_001)
    density = 0.5 * (stats.norm.pdf(grid, 0, noise_std) + stats.norm.pdf(grid, 1, noise_std))
    entropy = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)
    assert entropy - 0.5 * math.log(2 * math.pi * math.e * noise_std**2) < capacity


def test_capacity_of_the_ball_is_that_of_gaussian_features_of_its_power() -> None:
    assert capacity_ball(100, 2.0, 0.1) == pytest.approx(50 * math.log1p(4.0 / 100 / 0.01))
    assert capacity_box(100, 1.0, 0.1) < capacity_ball(100, 5.0, 0.1)  # the ball around the box holds more


def test_observations_add_up_at_most() -> None:
    for capacity in (capacity_box(8, 1.0, 0.3), capacity_ball(8, 1.0, 0.3)):
        assert capacity > 0
    assert capacity_box(8, 1.0, 0.3) < capacity_box(8, 1.0, 0.3, observations=4) < 4 * capacity_box(8, 1.0, 0.3)
    assert capacity_box(8, 1.0, 0.3, observations=4) == pytest.approx(capacity_box(8, 1.0, 0.15))


@pytest.mark.parametrize("arguments", [(0, 1.0, 0.1), (4, 0.0, 0.1), (4, 1.0, 0.0), (4, 1.0, 0.1, 0)])
def test_channels_without_noise_or_room_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(SpecError, match="expected"):
        capacity_box(*arguments)  # type: ignore[arg-type]
