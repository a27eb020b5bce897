"""What noise behind a clip makes true about differential privacy, and how to read it."""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr

from splitveil.contracts import positive
from splitveil.errors import SpecError

__all__ = ["gaussian_delta", "gaussian_epsilon", "laplace_epsilon", "zero_concentrated_rho"]


def gaussian_delta(epsilon: float, separation: float) -> float:
    """The delta of Gaussian noise: ``Phi(m/2 - e/m) - exp(e) Phi(-m/2 - e/m)``, exact.

    Args:
        epsilon: e >= 0.
        separation: m = D / s > 0, the largest distance of two features over the deviation of the noise; D is
            ``w sqrt(q)`` for a box of side w and ``2 C`` for a ball of radius C. For n releases, ``sqrt(n) m``.

    Example:
        >>> round(gaussian_delta(1.0, 1.0), 4)
        0.1269

    Reference:
        Balle and Wang: Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, Theorem 8.
    """
    m, e = positive(separation, "separation"), float(epsilon)
    if not e >= 0:
        raise SpecError(f"expected epsilon >= 0, got {epsilon!r}")
    first, second = float(log_ndtr(m / 2 - e / m)), e + float(log_ndtr(-m / 2 - e / m))
    return math.exp(first) - math.exp(min(second, first))


def gaussian_epsilon(delta: float, separation: float) -> float:
    """The epsilon of Gaussian noise at a delta: the inverse of `gaussian_delta`.

    Args:
        delta: in (0, 1).
        separation: see `gaussian_delta`.

    Example:
        >>> round(gaussian_epsilon(1e-5, 1.0), 2)
        4.38
    """
    if not 0 < delta < 1:
        raise SpecError(f"expected 0 < delta < 1, got {delta!r}")
    m = positive(separation, "separation")
    if gaussian_delta(0.0, m) <= delta:
        return 0.0
    high = m * m / 2 + m * math.sqrt(-2 * math.log(delta)) + 1.0
    return float(brentq(lambda e: gaussian_delta(e, m) - delta, 0.0, high, xtol=1e-9, rtol=1e-12))


def zero_concentrated_rho(separation: float) -> float:
    """The rho of zero-concentrated differential privacy: ``m^2 / 2``; the rhos of several releases add up.

    Example:
        >>> zero_concentrated_rho(2.0)
        2.0

    Reference:
        Bun and Steinke: Concentrated Differential Privacy, TCC 2016, Proposition 1.6.
    """
    return positive(separation, "separation") ** 2 / 2


def laplace_epsilon(q: int, width: float, scale: float, releases: int = 1) -> float:
    """The epsilon of Laplace noise behind a clip to a box: ``n q w / b``, any two pictures told apart, delta 0.

    It is read as odds: whatever an attacker believed about two pictures, a release multiplies the odds by at most
    ``exp(epsilon)``. Up to 1 that is strong, up to 10 it is something, and 7,000 is nothing: the noise of defenses
    against inversion protects by what an attacker cannot know, not by differential privacy.

    Args:
        q: features of a picture.
        width: w of the box, feature units.
        scale: b of the noise, feature units.
        releases: n of the same picture.

    Example:
        >>> round(laplace_epsilon(512, 1.0, 0.07))
        7314

    Reference:
        Dwork, McSherry, Nissim, Smith: Calibrating Noise to Sensitivity, TCC 2006.
    """
    if min(q, releases) < 1:
        raise SpecError(f"expected q and releases >= 1, got {q} and {releases}")
    return releases * q * positive(width, "width") / positive(scale, "scale")
