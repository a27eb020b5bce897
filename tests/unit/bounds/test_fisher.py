"""From slopes to error: exact on Gaussian-linear systems, and right for any Gaussian noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.bounds import continuity, fisher_rows, spectrum, unbiased, van_trees
from splitveil.bounds.fisher import Moments
from splitveil.errors import InputError, SpecError


def linear(matrix: Tensor, noise_std: Tensor) -> Moments:
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.flatten(1) @ matrix.T
        return mean, noise_std.expand_as(mean)

    return moments


def axes(d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(d, dtype=dtype).reshape(d, 1, 1, d)


def scores_with(covariance: Tensor, copies: int = 2) -> Tensor:
    """``copies`` times d scores whose second moment is exactly the inverse covariance, in each copy."""
    root = torch.linalg.cholesky(torch.linalg.inv(covariance))
    return (math.sqrt(len(root)) * root.T).repeat(copies, 1)


@st.composite
def systems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    d, q = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    matrix = torch.randn(q, d, generator=generator, dtype=torch.float64)
    std = 0.1 + torch.rand(q, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(d), matrix, std


def mmse(covariance: Tensor, matrix: Tensor, std: Tensor, observations: int = 1) -> float:
    precision = torch.linalg.inv(covariance) + observations * matrix.T @ (matrix / std[:, None] ** 2)
    return float(torch.linalg.inv(precision).trace()) / len(precision)


@settings(deadline=None)
@given(systems(), st.integers(1, 9))
def test_with_the_exact_score_the_spectrum_is_the_mmse(system: tuple[Tensor, Tensor, Tensor], n: int) -> None:
    covariance, matrix, std = system
    d, scores = len(covariance), scores_with(covariance)
    rows = fisher_rows(linear(matrix, std), torch.zeros(len(scores), 1, 1, d, dtype=torch.float64), axes(d))
    best = mmse(covariance, matrix, std, n)
    assert spectrum(rows, scores, d, n, ridge=0.0).value == pytest.approx(best, rel=1e-6)
    traces = rows.square().sum((1, 2))
    assert van_trees(traces, scores.square().sum(1), d, n) <= best * (1 + 1e-9)


@settings(deadline=None)
@given(systems(), st.floats(0.0, 0.9), st.integers(1, 3))
def test_whatever_matrix_the_first_fold_gave_it_stays_below_the_mmse(
    system: tuple[Tensor, Tensor, Tensor], ridge: float, seen: int
) -> None:
    """The first fold sees few scores, so its matrix is wrong; the second has the exact second moment."""
    covariance, matrix, std = system
    d = len(covariance)
    exact = scores_with(covariance, 1)
    first = torch.randn(d, d, generator=torch.Generator().manual_seed(seen), dtype=torch.float64)
    scores = torch.cat([first, exact])
    rows = fisher_rows(linear(matrix, std), torch.zeros(2 * d, 1, 1, d, dtype=torch.float64), axes(d))
    assert spectrum(rows, scores, d, ridge=ridge).value <= mmse(covariance, matrix, std) * (1 + 1e-9)


@settings(deadline=None)
@given(systems(), st.integers(2, 16))
def test_n_observations_are_one_at_a_smaller_noise(system: tuple[Tensor, Tensor, Tensor], n: int) -> None:
    covariance, matrix, std = system
    d, scores = len(covariance), scores_with(covariance)
    x = torch.zeros(len(scores), 1, 1, d, dtype=torch.float64)
    many = spectrum(fisher_rows(linear(matrix, std), x, axes(d)), scores, d, n).value
    less = spectrum(fisher_rows(linear(matrix, std / math.sqrt(n)), x, axes(d)), scores, d).value
    assert many == pytest.approx(less, rel=1e-9)
    assert many <= spectrum(fisher_rows(linear(matrix, std), x, axes(d)), scores, d).value * (1 + 1e-9)


def test_the_inverse_of_a_sampled_matrix_would_overstate_it_and_the_two_folds_do_not() -> None:
    d, n = 40, 100
    generator = torch.Generator().manual_seed(0)
    covariance = torch.eye(d, dtype=torch.float64)
    found, naive = [], []
    for _ in range(20):
        scores = torch.randn(n, d, generator=generator, dtype=torch.float64)
        rows = torch.zeros(n, d, 1, dtype=torch.float64)  # nothing is released: the error is that of the prior, 1
        found.append(spectrum(rows, scores, d).value)
        naive.append(float(torch.linalg.inv(scores.T @ scores / n).trace()) / d)
    assert np.mean(naive) > 1.3 * float(covariance.trace()) / d
    assert np.mean(found) < 1.0


def test_directions_that_are_left_out_count_nothing() -> None:
    covariance = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    scores = scores_with(covariance)
    rows = torch.zeros(6, 3, 1, dtype=torch.float64)
    assert spectrum(rows, scores, 3, ridge=0.0).value == pytest.approx(5.25 / 3)
    assert spectrum(rows[:, :2], scores[:, :2], 3, ridge=0.0).value == pytest.approx(5.0 / 3)


def test_noise_that_depends_on_the_picture_tells_of_it_too() -> None:
    """r ~ N(0, exp(2 a x)): F = 2 a^2, by finite differences of the expected log density."""
    slope = 0.7

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        z = x.flatten(1)
        return torch.zeros_like(z), (slope * z).exp()

    x = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64)
    found = float(fisher_rows(moments, x, axes(1)).square().sum())

    def divergence(step: float) -> float:  # KL( N(0, v(x)) || N(0, v(x + step)) )
        ratio = math.exp(-2 * slope * step)
        return 0.5 * (ratio - 1 - math.log(ratio))

    assert found == pytest.approx((divergence(1e-3) + divergence(-1e-3)) / 1e-6, rel=1e-5)


def test_slopes_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Tanh(), torch.nn.Flatten()).double()

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = net(x)
        return mean, 0.1 + mean.square()

    x = torch.rand(2, 1, 5, 4, generator=generator, dtype=torch.float64)
    directions = torch.randn(3, 1, 5, 4, generator=generator, dtype=torch.float64)
    rows = fisher_rows(moments, x, directions)
    own = fisher_rows(moments, x, directions.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(rows, own)
    step = 1e-6
    with torch.no_grad():
        (mean, std), moved = moments(x), moments(x + step * directions[1])
        expected = torch.cat([(moved[0] - mean) / step / std, math.sqrt(2) * (moved[1] - std) / step / std], dim=1)
    torch.testing.assert_close(rows[:, 1], expected, rtol=1e-4, atol=1e-4)


def test_unbiased_attackers_are_bounded_higher_than_others_are() -> None:
    traces, scores = torch.tensor([4.0, 8.0]), torch.tensor([3.0])
    assert unbiased(traces, 2) == pytest.approx(2 / 6)
    assert unbiased(traces, 2, 4) == pytest.approx(2 / 24)
    assert van_trees(traces, scores, 2) < unbiased(traces, 2)


def test_jumps_are_seen_and_kinks_are_let_pass() -> None:
    x, directions = torch.linspace(-1, 1, 41).reshape(-1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    def kinked(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1).relu(), torch.ones_like(x.flatten(1))

    def jumping(x: Tensor) -> tuple[Tensor, Tensor]:
        return (1e4 * x).round().flatten(1) / 1e4, torch.ones_like(x.flatten(1))

    assert float(continuity(kinked, x, directions).quantile(0.9)) < 0.01
    assert float(continuity(jumping, x, directions).median()) > 0.9


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="rows"):
        spectrum(torch.zeros(1, 2, 3), torch.zeros(1, 2), 2)
    with pytest.raises(InputError, match="scores"):
        spectrum(torch.zeros(4, 2, 3), torch.zeros(4, 3), 3)
    with pytest.raises(SpecError, match="d >= k"):
        spectrum(torch.zeros(4, 2, 3), torch.zeros(4, 2), 1)


def test_a_release_that_does_not_change_with_the_picture_bounds_no_unbiased_attacker() -> None:
    assert unbiased(torch.zeros(4), 3) == float("inf")
