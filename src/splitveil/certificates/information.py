"""Upper bounds on the information in a release, as certificates: the tightest that holds is the one that counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from splitveil.bounds import (
    Certificate,
    HeldOut,
    capacity_ball,
    capacity_box,
    held_out_information,
    information_bound,
    payload_information,
)
from splitveil.certificates.channel import Channel, Features
from splitveil.mixtures import ClassMixture
from splitveil.mixtures.covariance import Covariance
from splitveil.rng import Rng

__all__ = [
    "CONFIDENCE",
    "POPULATION",
    "REAL",
    "FittedBound",
    "fit_bounds",
    "information_certificates",
    "shared_confidence",
    "tightest",
]

CONFIDENCE = 0.999
"""Of all upper bounds on a card that were computed from samples, together; the utility floor has its own."""

POPULATION = ("mixture", "gaussian_channel")
"""Methods that hold for pictures of the data's population, not for any gallery."""

_MIXTURES: tuple[tuple[str, int | None, int, Covariance], ...] = (
    ("mixture", None, 5, "diagonal"),  # in each class
    ("gaussian_channel", 1, 1, "full"),
)
_ITERATIONS = 50
_WIDEST, _RANK = 16_384, 64  # dimensions that a full covariance is fitted in; directions of one that is not
_FRESH = "noise is drawn anew, independently, for every release"
REAL = "noise is of real numbers: the lowest bits of floating point ones, and their farthest tails, tell nothing more"
"""Of every certificate that rests on noise; docs/certificates.md says how far it can be from true."""

_POPULATION = "pictures are drawn from the population of the held-out ones, independently of those that were fitted to"


@dataclass(frozen=True)
class FittedBound:
    """A mixture that was fitted to features of some pictures, to be held against those of others.

    Args:
        name: of the method.
        mixture: fitted; the noise is put in when it is used.
        groups: classes that it tells apart; 1 for none.
    """

    name: str
    mixture: ClassMixture
    groups: int

    def upper(self, held_out: Features, variance: Tensor, width: float, confidence: float) -> HeldOut:
        """The information under this noise, held out.

        Args:
            held_out: features of pictures that the mixture has not seen.
            variance: ``(q,)`` of the noise.
            width: of the box that features are clipped to.
            confidence: of the upper limit.
        """
        ceiling = float(0.5 * (width**2 / (4 * variance)).log1p().sum())
        labels = held_out.labels if self.groups > 1 else torch.zeros_like(held_out.labels)
        self.mixture.condition(variance.to(self.mixture.noise))
        with torch.no_grad():
            bounds = information_bound(held_out.mean, variance.to(held_out.mean), labels, self.mixture)
        return held_out_information(bounds, ceiling, confidence=confidence)


def fit_bounds(features: Features, classes: int, rng: Rng) -> list[FittedBound]:
    """``mixture``, of clusters in each class, and ``gaussian_channel``, of one Gaussian for all.

    Features too wide for a full covariance get one of low rank: any Gaussian gives a bound, the fitted one the best.

    Args:
        features: to fit to.
        classes: of the labels.
        rng: of the fits.
    """
    found: list[FittedBound] = []
    for name, groups, clusters, covariance in _MIXTURES:
        groups = groups or classes
        q = features.mean.shape[1]
        shape: Covariance = "low_rank" if covariance == "full" and q > _WIDEST else covariance
        mixture = ClassMixture(groups, clusters, q, shape, rank=min(_RANK, q)).to(features.mean.device)
        labels = features.labels if groups > 1 else None
        mixture.fit(features.mean, labels, rng.child(name), iterations=_ITERATIONS)
        found.append(FittedBound(name, mixture, groups))
    return found


def shared_confidence(bounds: int, confidence: float = CONFIDENCE) -> float:
    """Of each of so many fitted bounds, for all to hold at once, so that the smallest may be chosen."""
    return 1 - (1 - confidence) / max(1, bounds)


def information_certificates(
    channel: Channel | None,
    payload_bytes: int,
    bounds: Sequence[FittedBound] = (),
    held_out: Features | None = None,
    *,
    observations: int = 1,
    confidence: float = CONFIDENCE,
) -> list[Certificate]:
    """All that hold for a channel: ``payload``, ``capacity``, and what was fitted.

    Args:
        channel: None for a release without Gaussian noise, of which the payload alone can be said.
        payload_bytes: of one release.
        bounds: of `fit_bounds`.
        held_out: features of pictures that these were not fitted to.
        observations: n fresh releases of one picture; their mean has the noise ``s^2 / n`` and is all they tell.
        confidence: that all of them hold together; it is shared out among those that come from samples.

    Example:
        >>> [item.name for item in information_certificates(None, 64)]
        ['payload']
    """
    bytes_on_the_wire = (f"a release is {payload_bytes} bytes on the wire, and its length tells nothing",)
    found = [_certificate("payload", payload_information(payload_bytes, observations), bytes_on_the_wire, observations)]
    if channel is None or channel.std is None or channel.width is None:
        return found
    clipped = f"features are clipped to an interval {channel.width:g} wide before the noise"
    capacity = sum(capacity_box(1, channel.width, float(std), observations) for std in channel.std)
    if channel.ball is not None:
        clipped = f"features are clipped to an l2 norm of {channel.ball:g} before the noise"
        capacity = min(capacity, capacity_ball(len(channel.std), channel.ball, float(channel.std.min()), observations))
    found.append(_certificate("capacity", capacity, (clipped, _FRESH, REAL), observations))
    if held_out is None or not bounds:
        return found
    shared = shared_confidence(len(bounds), confidence)
    for bound in bounds:
        held = bound.upper(held_out, channel.std.square() / observations, channel.width, shared)
        told = _certificate(bound.name, held.upper_nats, (clipped, _FRESH, REAL, _POPULATION), observations)
        found.append(replace(told, confidence=confidence, n=held.n))
    return found


_REFERENCES = {
    "payload": "Shannon: a message of b bits carries at most b ln 2 nats",
    "capacity": "Shannon 1948; McKellips 2004, (3), for the amplitude",
    "mixture": "arXiv 2503.00383, Theorem 2, per sample and held out; Maurer and Pontil 2009, Theorem 4",
    "gaussian_channel": "Cover and Thomas, Theorem 8.6.5, held out; Maurer and Pontil 2009, Theorem 4",
}


def _certificate(name: str, nats: float, assumptions: tuple[str, ...], observations: int) -> Certificate:
    return Certificate(
        name=name,
        quantity="information",
        relation="<=",
        value=nats,
        unit="nats",
        assumptions=assumptions,
        reference=_REFERENCES[name],
        observations=observations,
    )


def tightest(certificates: Sequence[Certificate], *, any_gallery: bool = False) -> Certificate:
    """The least upper bound on the information.

    Args:
        certificates: of one number of observations, at least one.
        any_gallery: only those that hold whatever pictures there are to choose among.
    """
    able = [item for item in certificates if not (any_gallery and item.name in POPULATION)]
    return min(able, key=lambda item: item.value if math.isfinite(item.value) else math.inf)
