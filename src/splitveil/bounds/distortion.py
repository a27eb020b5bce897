"""From information to error: what no attacker's reconstruction can beat, given how random pictures are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splitveil.errors import InputError, SpecError

__all__ = ["DITHER_MSE", "blocks", "entropy_power", "shannon", "undithered"]

DITHER_MSE = 1 / (12 * 255**2)
"""The error that dithering adds: a uniform noise one level of a pixel wide."""


def entropy_power(nats: ArrayLike, dimensions: ArrayLike) -> NDArray[np.float64]:
    """``N = exp(2 h / m) / (2 pi e)``: the variance of a white Gaussian of the same entropy.

    Args:
        nats: h, differential entropy.
        dimensions: m, of the same shape.

    Example:
        >>> float(entropy_power(0.5 * np.log(2 * np.pi * np.e * 4.0), 1).round(6))
        4.0
    """
    h, m = np.asarray(nats, dtype=np.float64), np.asarray(dimensions, dtype=np.float64)
    return np.exp(2 * h / m) / (2 * math.pi * math.e)


def shannon(entropy_nats: float, information_nats: float, dimensions: int) -> float:
    """Shannon's lower bound on the mean squared error per dimension: ``xi >= exp(2 (h(x) - I) / d) / (2 pi e)``.

    Args:
        entropy_nats: h(x) of pictures in [0, 1], dithered.
        information_nats: I(x; r) >= 0.
        dimensions: d.

    Raises:
        SpecError: a negative information, or no dimension.

    Reference:
        arXiv 2503.00383, Theorem 1 with Proposition 2.

    Example:
        >>> round(shannon(0.5 * 3 * np.log(2 * np.pi * np.e), 0.0, 3), 9)
        1.0
    """
    return blocks([entropy_nats], [dimensions], information_nats)


def blocks(entropies_nats: ArrayLike, sizes: ArrayLike, information_nats: float) -> float:
    """The least mean squared error per dimension, over all ways to spend the information on blocks of coordinates.

    ```
    xi >= 1/d  min   sum_k m_k N_k exp(-2 I_k / m_k),        N_k = exp(2 h(x_k | x_<k) / m_k) / (2 pi e)
              I_k >= 0, sum I_k <= I

        = 1/d  sum_k m_k min(N_k, t),    t the water level at which   sum_k m_k/2 ln(N_k / t)+ = I
    ```
    Blocks are orthonormal coordinates ``x_k = U_k' x``, each given those before. One block of all dimensions is
    `shannon`; single principal axes of a Gaussian give its rate-distortion function (reverse water-filling).

    Proof: the error is the sum over blocks; in each, ``m_k`` times the entropy power of x_k given r, and hence given r
    and x_<k, bounds it from below; ``h(x_k | r, x_<k) = h(x_k | x_<k) - I(x_k; r | x_<k)``; these add up to I(x; r).

    Args:
        entropies_nats: ``(b,)``, h(x_k | x_<k).
        sizes: ``(b,)``, m_k >= 1.
        information_nats: I(x; r) >= 0.

    Returns:
        The bound, per dimension.

    Raises:
        InputError: no block, shapes that differ, or an entropy that is not a number.
        SpecError: a size below 1, or a negative information.

    Reference:
        Ours; Cover and Thomas: Elements of Information Theory, 10.3.3 (reverse water-filling).

    Example:
        >>> h = 0.5 * np.log(2 * np.pi * np.e * np.array([4.0, 1.0]))
        >>> round(blocks(h, [1, 1], 0.5 * np.log(4.0)), 9)  # the strong one is brought down to the weak one's level
        1.0
    """
    h, m = np.atleast_1d(np.asarray(entropies_nats, np.float64)), np.atleast_1d(np.asarray(sizes, np.float64))
    if h.ndim != 1 or h.shape != m.shape or not h.size or bool(np.isnan(h).any()):
        raise InputError(f"expected entropies and sizes of shape (b,), b >= 1, without NaN, got {h.shape}, {m.shape}")
    if bool((m < 1).any()) or not 0 <= information_nats < math.inf:
        raise SpecError(f"expected sizes >= 1 and a finite information >= 0, got {m.min():g} and {information_nats}")
    log_power = 2 * h / m - math.log(2 * math.pi * math.e)
    level = _water_level(log_power, m, information_nats)
    return float((m * np.exp(np.minimum(log_power, level))).sum() / m.sum())


def _water_level(log_power: NDArray[np.float64], m: NDArray[np.float64], information: float) -> float:
    """ln t: where the rates of all blocks above it add up to the information."""
    order = np.argsort(-log_power)
    powers, weights = log_power[order], m[order]
    above = np.cumsum(weights)
    # with the k strongest blocks above the level:  sum_k m/2 (ln N - ln t) = I
    levels = (np.cumsum(weights * powers) - 2 * information) / above
    floors = np.append(powers[1:], -np.inf)
    return float(levels[np.argmax(levels >= floors)])


def undithered(mse: float) -> float:
    """A bound on the error of dithered pictures as one on that of the pictures themselves, never below 0.

    Example:
        >>> undithered(0.0)
        0.0
    """
    return max(0.0, mse - DITHER_MSE)
