"""What a Gaussian channel can carry, whatever is sent through it: certificates for every distribution of pictures."""

from __future__ import annotations

import math

from scipy.optimize import brentq

from splitveil.contracts import positive
from splitveil.errors import SpecError

__all__ = ["capacity_ball", "capacity_box", "noise_for_capacity", "payload_information"]

_WIDEST = 300.0  # of ln(s / w): beyond any noise, and its square still a number


def capacity_box(q: int, width: float, noise_std: float, observations: int = 1) -> float:
    """Nats through q dimensions that are clipped to an interval of this width before Gaussian noise.

    ```
    I <= q min( 1/2 ln(1 + w^2 / (4 s^2)), ln(1 + w / (s sqrt(2 pi e))) ),    s^2 / n for n observations
    ```

    The first is the capacity under the power that the interval allows, the second McKellips' bound for the amplitude.

    Args:
        q: dimensions.
        width: w, feature units.
        noise_std: s, feature units.
        observations: n, independent releases of the same picture.

    Example:
        >>> round(capacity_box(512, 1.0, 0.1))
        630
    """
    s = _check(q, noise_std, observations)
    w = positive(width, "width")
    power = 0.5 * math.log1p((w / s) ** 2 / 4)
    amplitude = math.log1p(w / (s * math.sqrt(2 * math.pi * math.e)))
    return q * min(power, amplitude)


def capacity_ball(q: int, radius: float, noise_std: float, observations: int = 1) -> float:
    """Nats through q dimensions that are clipped to an l2 ball before Gaussian noise: ``q/2 ln(1 + C^2 / (q s^2))``.

    Args:
        q: dimensions.
        radius: C, feature units.
        noise_std: s, feature units.
        observations: n, independent releases of the same picture.

    Example:
        >>> round(capacity_ball(512, 1.0, 0.1), 1)
        45.7
    """
    s = _check(q, noise_std, observations)
    return 0.5 * q * math.log1p((positive(radius, "radius") / s) ** 2 / q)


def noise_for_capacity(q: int, width: float, nats: float) -> float:
    """The least deviation of the noise at which `capacity_box` allows no more than so many nats.

    Args:
        q: dimensions.
        width: of the interval that features are clipped to, feature units.
        nats: > 0.

    Raises:
        SpecError: no noise gives that.

    Example:
        >>> round(noise_for_capacity(512, 1.0, capacity_box(512, 1.0, 0.1)), 6)
        0.1
    """
    target, w = positive(nats, "nats"), positive(width, "width")

    def excess(log_ratio: float) -> float:
        return math.log(capacity_box(q, w, w * math.exp(log_ratio)) / target)

    if not (q > 0 and excess(_WIDEST) < 0 < excess(-_WIDEST)):
        raise SpecError(f"expected a capacity that some noise gives {q} dimensions, got {nats} nats: ask for less")
    return w * math.exp(float(brentq(excess, -_WIDEST, _WIDEST, xtol=1e-13)))


def payload_information(payload_bytes: int, observations: int = 1) -> float:
    """Nats that so many bytes on the wire can carry: ``I <= ln 2 * 8 * bytes * n``, whatever is in them.

    Args:
        payload_bytes: of one release.
        observations: n releases of the same picture.

    Example:
        >>> round(payload_information(64), 1)
        354.9
    """
    if payload_bytes < 1 or observations < 1:
        raise SpecError(f"expected payload_bytes and observations >= 1, got {payload_bytes} and {observations}")
    return math.log(2) * 8 * payload_bytes * observations


def _check(q: int, noise_std: float, observations: int) -> float:
    """The noise of the mean of all observations."""
    if q < 1 or observations < 1:
        raise SpecError(f"expected q and observations >= 1, got {q} and {observations}")
    return positive(noise_std, "noise_std") / math.sqrt(observations)
