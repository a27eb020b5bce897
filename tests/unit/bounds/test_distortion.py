"""From information to error, against closed forms, brute force and Gaussian-linear systems."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from splitveil.bounds import DITHER_MSE, blocks, entropy_power, shannon, undithered
from splitveil.errors import InputError, SpecError

LOG_WHITE = math.log(2 * math.pi * math.e)


def entropies(variances: np.ndarray) -> np.ndarray:
    return 0.5 * (LOG_WHITE + np.log(variances))


def water_filling(variances: np.ndarray, information: float) -> float:
    """Distortion of independent Gaussians at a rate, by bisection of the water level."""
    low, high = 0.0, float(variances.max())
    for _ in range(300):
        level = (low + high) / 2
        with np.errstate(divide="ignore"):
            rate = 0.5 * np.maximum(np.log(variances / level), 0).sum() if level > 0 else np.inf
        low, high = (level, high) if rate > information else (low, level)
    return float(np.minimum(variances, high).mean())


@dataclass(frozen=True)
class System:
    """x ~ N(0, S), r = W x + s n."""

    covariance: np.ndarray
    matrix: np.ndarray
    noise_std: float

    @property
    def information(self) -> float:
        gram = self.matrix @ self.covariance @ self.matrix.T / self.noise_std**2
        return 0.5 * float(np.linalg.slogdet(np.eye(len(gram)) + gram)[1])

    @property
    def mmse(self) -> float:
        precision = np.linalg.inv(self.covariance) + self.matrix.T @ self.matrix / self.noise_std**2
        return float(np.trace(np.linalg.inv(precision))) / len(precision)


@st.composite
def systems(draw: st.DrawFn) -> System:
    d, q = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    root = generator.normal(size=(d, d)) * generator.uniform(0.2, 2.0, size=d)
    covariance = root @ root.T + 0.05 * np.eye(d)
    return System(covariance, generator.normal(size=(q, d)), draw(st.floats(0.05, 5.0)))


@settings(deadline=None)
@given(systems())
def test_on_gaussian_linear_systems_the_bounds_stand_in_order_below_what_the_best_attacker_reaches(s: System) -> None:
    variances = np.linalg.eigvalsh(s.covariance)
    axes = blocks(entropies(variances), np.ones(len(variances)), s.information)
    whole = shannon(entropies(variances).sum(), s.information, len(variances))
    assert axes == pytest.approx(water_filling(variances, s.information), rel=1e-9)
    assert whole <= axes * (1 + 1e-12)
    assert axes <= s.mmse * (1 + 1e-9)
    for variance in variances:  # all the information spent on one axis, the others left as they are
        alone = variance * math.exp(-2 * s.information) / len(variances)
        assert alone <= axes * (1 + 1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-6, 3), st.integers(1, 5)), min_size=1, max_size=5),
    st.floats(0, 20),
)
def test_it_is_the_least_over_all_ways_to_spend_the_information(drawn: list[tuple[float, int]], budget: float) -> None:
    log_powers, sizes = np.array([item[0] for item in drawn]), np.array([item[1] for item in drawn], dtype=float)
    h = sizes * (log_powers + LOG_WHITE) / 2
    found = blocks(h, sizes, budget)

    def spent(shares: np.ndarray) -> float:
        return float((sizes * np.exp(log_powers - 2 * shares / sizes)).sum() / sizes.sum())

    start = np.full(len(drawn), budget / len(drawn))
    best = minimize(
        spent,
        start,
        method="SLSQP",
        bounds=[(0, None)] * len(drawn),
        constraints=[{"type": "ineq", "fun": lambda shares: budget - shares.sum()}],
        options={"maxiter": 500, "ftol": 1e-13},
    )
    assert found <= min(spent(start), spent(np.maximum(best.x, 0)) if best.x.sum() <= budget else np.inf) * (1 + 1e-9)
    assert found >= best.fun - 1e-4 * spent(np.zeros(len(drawn)))


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=6), st.floats(0, 50), st.floats(0, 50))
def test_more_information_never_raises_it(h: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))
    sizes = np.ones(len(h))
    assert blocks(h, sizes, high) <= blocks(h, sizes, low) * (1 + 1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=2, max_size=6), st.floats(0, 30))
def test_blocks_that_are_cut_finer_never_lower_it(h: list[float], information: float) -> None:
    merged = [h[0] + h[1], *h[2:]]
    sizes = np.array([2, *[1] * (len(h) - 2)])
    assert blocks(merged, sizes, information) <= blocks(h, np.ones(len(h)), information) * (1 + 1e-12)


def test_without_information_it_is_the_mean_entropy_power() -> None:
    h = np.array([0.3, -2.0, 1.0])
    assert blocks(h, [1, 1, 1], 0.0) == pytest.approx(float(entropy_power(h, 1).mean()))


def test_entropies_without_a_limit_do_not_overflow() -> None:
    assert blocks([-1e5, 0.0], [1, 1], 1e4) == 0.0
    assert 0 < blocks([-1e5, 0.0], [1, 1], 1.0) < math.inf


def test_the_dithers_own_error_is_taken_off() -> None:
    assert pytest.approx(np.square(np.linspace(-0.5, 0.5, 200_001) / 255).mean(), rel=1e-4) == DITHER_MSE
    assert undithered(1e-3) == 1e-3 - DITHER_MSE
    assert undithered(DITHER_MSE / 2) == 0.0


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        blocks([1.0, 2.0], [1], 0.0)
    with pytest.raises(InputError, match="NaN"):
        blocks([math.nan], [1], 0.0)
    with pytest.raises(SpecError, match="information >= 0"):
        blocks([1.0], [1], -1.0)
    with pytest.raises(SpecError, match="sizes >= 1"):
        blocks([1.0], [0.5], 1.0)
