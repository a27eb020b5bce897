"""Entropies of pictures, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from splitveil.bounds.entropy import (
    PrincipalAxes,
    dither,
    gaussian_profile,
    mixture_profile,
    neighbour_profile,
)
from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng


def correlated(n: int, seed: int) -> np.ndarray:
    root = np.array([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 0.3]])
    return np.random.default_rng(seed).normal(size=(n, 3)) @ root.T


TRUE_GAUSSIAN = 1.5 * math.log(2 * math.pi * math.e) + math.log(1.0 * 0.5 * 0.3)


def two_balls(n: int, seed: int) -> np.ndarray:
    """Two narrow Gaussians far apart: the Gaussian ceiling lies far above their entropy."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 2)) * 0.1 + generator.choice([-2.0, 2.0], size=(n, 1))


TRUE_BALLS = math.log(2) + math.log(2 * math.pi * math.e * 0.01)


def test_on_a_gaussians_axes_all_three_find_its_entropy() -> None:
    axes = PrincipalAxes.fit(torch.from_numpy(correlated(20_000, 0)))
    held = axes.coordinates(torch.from_numpy(correlated(5000, 1)))
    fitted = axes.coordinates(torch.from_numpy(correlated(5000, 2)))
    assert gaussian_profile(held).total_nats == pytest.approx(TRUE_GAUSSIAN, abs=0.05)
    assert mixture_profile(fitted, held, components=2, rng=Rng(0)).total_nats == pytest.approx(TRUE_GAUSSIAN, abs=0.06)
    assert neighbour_profile(held, (1, 1, 1)).total_nats == pytest.approx(TRUE_GAUSSIAN, abs=0.1)


def test_where_pictures_are_no_gaussian_the_ceiling_is_one_and_the_others_see_more() -> None:
    fitted, held = two_balls(4000, 0), two_balls(4000, 1)
    ceiling = gaussian_profile(held).total_nats
    mixture = mixture_profile(fitted, held, components=2, rng=Rng(0)).total_nats
    neighbours = neighbour_profile(held, (1, 1)).total_nats
    assert ceiling > TRUE_BALLS + 3
    assert mixture == pytest.approx(TRUE_BALLS, abs=0.05)
    assert neighbours == pytest.approx(TRUE_BALLS, abs=0.1)


def test_the_ceiling_is_the_log_density_of_the_fitted_gaussian() -> None:
    x = correlated(100, 3)
    law = stats.norm(x.mean(0), x.std(0))
    np.testing.assert_allclose(gaussian_profile(x).contributions, -law.logpdf(x), rtol=1e-9)


def test_a_mixtures_conditional_entropies_are_those_of_its_marginals() -> None:
    """``-ln g(x_2 | x_1) = ln g(x_1) - ln g(x_1, x_2)``, the marginal by integrating the joint density."""
    fitted, held = two_balls(500, 0), two_balls(20, 1)
    profile = mixture_profile(fitted, held, components=2, rng=Rng(0))
    from sklearn.mixture import GaussianMixture

    state = int(Rng(0).numpy().integers(2**31))
    mixture = GaussianMixture(2, reg_covar=1e-8, random_state=state).fit(fitted)
    np.testing.assert_allclose(-profile.contributions.sum(1), mixture.score_samples(held), rtol=1e-9)
    grid = np.linspace(-6, 6, 4001)
    points = np.stack([np.full_like(grid, held[0, 0]), grid], axis=1)
    marginal = np.trapezoid(np.exp(mixture.score_samples(points)), grid)
    assert -profile.contributions[0, 0] == pytest.approx(math.log(marginal), rel=1e-6)


def test_coordinates_beyond_the_leading_ones_keep_their_ceiling() -> None:
    fitted, held = correlated(400, 0), correlated(300, 1)
    mixture = mixture_profile(fitted, held, leading=2, rng=Rng(0))
    neighbours = neighbour_profile(held, (2, 4))
    ceiling = gaussian_profile(held)
    assert mixture.nats[2] == ceiling.nats[2]
    assert list(neighbours.sizes) == [2, 1]
    assert neighbours.nats[1] == ceiling.nats[2]


def test_axes_are_orthonormal_and_go_from_much_to_little_also_where_pictures_are_few() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 8)))
    axes = PrincipalAxes.fit(x)
    torch.testing.assert_close(axes.directions.T @ axes.directions, torch.eye(8), atol=1e-5, rtol=0.0)
    variances = axes.coordinates(x).var(0)
    assert np.all(np.diff(variances) <= 1e-6)


def test_resamples_scatter_as_the_mean_does() -> None:
    profile = gaussian_profile(correlated(400, 5))
    drawn = profile.resampled(Rng(0), 2000).sum(1)
    assert drawn.mean() == pytest.approx(profile.total_nats, abs=0.02)
    expected = profile.contributions.sum(1).std() / math.sqrt(400)
    assert drawn.std() == pytest.approx(expected, rel=0.1)


def test_dithered_pictures_are_the_pictures_one_level_wide() -> None:
    images = torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x = dither(images, Rng(1))
    error = x - images.flatten(1) / 255
    assert float(error.abs().max()) <= 0.5 / 255 + 1e-7
    assert float(error.square().mean()) == pytest.approx(1 / (12 * 255**2), rel=0.05)
    assert torch.equal(x, dither(images, Rng(1)))


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="bytes"):
        dither(torch.zeros(1, 1, 2, 2), Rng(0))
    with pytest.raises(InputError, match="n >= 2"):
        PrincipalAxes.fit(torch.zeros(1, 3))
    with pytest.raises(SpecError, match="neighbours"):
        neighbour_profile(np.zeros((4, 2)), neighbours=4)
