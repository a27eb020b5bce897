"""Differential privacy against its definition, by numerical integration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from splitveil.bounds.privacy import gaussian_delta, gaussian_epsilon, laplace_epsilon, zero_concentrated_rho
from splitveil.errors import SpecError


@settings(deadline=None, max_examples=40)
@given(st.floats(0.0, 6.0), st.floats(0.2, 4.0))
def test_delta_is_the_mass_that_the_odds_leave_over(epsilon: float, separation: float) -> None:
    """``integral of max(0, p - exp(epsilon) q)`` for two unit Gaussians that far apart."""

    def excess(x: float) -> float:
        return max(0.0, float(norm.pdf(x, separation) - math.exp(epsilon) * norm.pdf(x)))

    edge = epsilon / separation + separation / 2  # where the odds are exp(epsilon)
    expected, _ = quad(excess, edge, edge + 40, limit=200)
    assert gaussian_delta(epsilon, separation) == pytest.approx(expected, abs=1e-8)


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-12, 0.5), st.floats(0.01, 500.0))
def test_epsilon_is_the_inverse_of_delta(delta: float, separation: float) -> None:
    epsilon = gaussian_epsilon(delta, separation)
    if epsilon == 0:
        assert gaussian_delta(0.0, separation) <= delta
    else:
        assert gaussian_delta(epsilon, separation) == pytest.approx(delta, rel=1e-4)


def test_it_never_costs_more_than_concentrated_privacy_says() -> None:
    """Bun and Steinke, Proposition 1.3: rho + 2 sqrt(rho ln(1 / delta))."""
    for separation in (0.1, 1.0, 10.0, 226.0):
        rho = zero_concentrated_rho(separation)
        assert gaussian_epsilon(1e-5, separation) < rho + 2 * math.sqrt(rho * math.log(1e5))


def test_laplace_noise_multiplies_the_odds_by_no_more() -> None:
    """The densities of two corners of the box, at the worst place."""
    q, width, scale = 3, 0.8, 0.5
    worst = sum(abs(0.0 - width) / scale - abs(width - width) / scale for _ in range(q))
    assert laplace_epsilon(q, width, scale) == pytest.approx(worst)
    assert laplace_epsilon(q, width, scale, releases=4) == pytest.approx(4 * worst)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: gaussian_epsilon(0.0, 1.0),
        lambda: gaussian_delta(-1.0, 1.0),
        lambda: gaussian_delta(1.0, 0.0),
        lambda: laplace_epsilon(0, 1.0, 1.0),
    ],
)
def test_values_out_of_range_are_refused(wrong: object) -> None:
    with pytest.raises(SpecError, match="expected"):
        wrong()  # type: ignore[operator]
