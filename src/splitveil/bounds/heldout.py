"""The mixture's bound on the information, from samples that the mixture has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from splitveil.errors import InputError, SpecError

__all__ = ["HeldOut", "held_out_information"]

_SAFETY = 0.01  # share of the broad component that keeps every sample's bound finite


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A mean over held-out samples and what it proves.

    Args:
        mean_nats: the mean bound.
        upper_nats: with `confidence`, the population's I(x; r) is at most this.
        confidence: of `upper_nats`.
        n: held-out samples.
        ceiling_nats: the most that a sample could have counted.
    """

    mean_nats: float
    upper_nats: float
    confidence: float
    n: int
    ceiling_nats: float


def held_out_information(bounds: Tensor, ceiling_nats: float, *, confidence: float = 0.999) -> HeldOut:
    """An upper limit on I(x; r) from per-sample bounds of a mixture that was fitted on other samples.

    The mixture is widened by one component of share e = 0.01: a product of Gaussians about the middle of the box that
    the features are clipped to, with variance ``w^2/4 + s^2``. From it, no sample counts more than
    ``q/2 ln(1 + w^2 / (4 s^2))``, so each of

    ```
    B'_i = min( B_i - ln(1 - e), ceiling - ln e )
    ```

    lies in [0, ceiling - ln e], and Maurer and Pontil's empirical Bernstein inequality bounds their expectation:

    ```
    E B' <= mean B' + sqrt(2 var(B') ln(2/d) / n) + 7 (ceiling - ln e) ln(2/d) / (3 (n - 1)),   d = 1 - confidence
    ```

    Args:
        bounds: ``(n,)`` of `information_bound`, on samples drawn independently of the mixture, n >= 2.
        ceiling_nats: ``q/2 ln(1 + w^2 / (4 s^2))``, the power form of `capacity_box`.
        confidence: in (0, 1).

    Raises:
        InputError: fewer than two samples, or a bound that is not a number.
        SpecError: a confidence or a ceiling out of range.

    Reference:
        Maurer and Pontil 2009, Theorem 4; the widened mixture is ours.

    Example:
        >>> import torch
        >>> found = held_out_information(torch.full((1000,), 5.0), 100.0)
        >>> found.mean_nats < found.upper_nats < 8
        True
    """
    if not 0 < confidence < 1:
        raise SpecError(f"expected a confidence between 0 and 1, got {confidence}")
    if not 0 < ceiling_nats < math.inf:
        raise SpecError(
            f"expected a finite ceiling > 0, got {ceiling_nats}: clip the features to a box before the noise"
        )
    n = len(bounds)
    if bounds.ndim != 1 or n < 2 or bool(bounds.isnan().any()):
        raise InputError(f"expected at least two bounds (n,) without NaN, got shape {tuple(bounds.shape)}")
    ceiling = ceiling_nats - math.log(_SAFETY)
    widened = (bounds.detach().double() - math.log1p(-_SAFETY)).clamp(min=0.0, max=ceiling)
    log_term = math.log(2 / (1 - confidence))
    spread = math.sqrt(2 * float(widened.var()) * log_term / n)
    upper = float(widened.mean()) + spread + 7 * ceiling * log_term / (3 * (n - 1))
    return HeldOut(float(widened.mean()), min(upper, ceiling), confidence, n, ceiling)
