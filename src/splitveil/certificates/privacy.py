"""Differential privacy of a release, as certificates."""

from __future__ import annotations

import math
from itertools import pairwise

from splitveil.bounds import Certificate
from splitveil.bounds.privacy import gaussian_epsilon, laplace_epsilon, zero_concentrated_rho
from splitveil.certificates.channel import Channel
from splitveil.certificates.information import REAL
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.split_model import SplitModel

__all__ = ["DELTA", "privacy_certificates"]

DELTA = 1e-5
"""The delta at which the epsilon of Gaussian noise is told."""

_PAIR = "any two pictures are to be told apart; their odds change by at most exp(epsilon), of which 10 is already much"
_FRESH = "noise is drawn anew, independently, for every release"


def privacy_certificates(model: SplitModel, channel: Channel | None, observations: int) -> list[Certificate]:
    """Epsilon and rho where features are clipped before the noise; nothing elsewhere.

    Args:
        model: whose mechanism is read.
        channel: its Gaussian stage, or None.
        observations: n releases of one picture.
    """
    if channel is not None and channel.std is not None and channel.width is not None:
        deviation = channel.std / math.sqrt(observations)
        separation = float((channel.width / deviation).square().sum().sqrt())
        if channel.ball is not None:
            separation = min(separation, 2 * channel.ball / float(deviation.min()))
        found = [
            (f"epsilon of differential privacy at delta {DELTA:g}", gaussian_epsilon(DELTA, separation), _BALLE),
            ("rho of zero-concentrated differential privacy", zero_concentrated_rho(separation), _BUN),
        ]
    else:
        found = [("epsilon of differential privacy", epsilon, _DWORK) for epsilon in _laplace(model, observations)]
    return [
        Certificate(
            name="differential_privacy",
            quantity=quantity,
            relation="<=",
            value=value,
            unit="",
            assumptions=(_PAIR, _FRESH, REAL),
            reference=reference,
            observations=observations,
        )
        for quantity, value, reference in found
    ]


_BALLE = "Balle and Wang 2018, Theorem 8"
_BUN = "Bun and Steinke 2016, Proposition 1.6"
_DWORK = "Dwork, McSherry, Nissim, Smith 2006"


def _laplace(model: SplitModel, observations: int) -> list[float]:
    """The epsilon of a clip and Laplace noise right behind it."""
    parts = model.mechanism.mechanisms if isinstance(model.mechanism, Chain) else [model.mechanism]
    for before, after in pairwise(parts):
        if isinstance(after, Laplace) and isinstance(before, Clip | ClipBall):
            q = model.feature_spec.numel
            # two points of a ball are 2 C apart, and at most sqrt(q) times that in l1
            width = before.high - before.low if isinstance(before, Clip) else 2 * before.radius / math.sqrt(q)
            return [laplace_epsilon(q, width, after.scale, observations)]
    return []
