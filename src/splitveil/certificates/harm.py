"""From the information in a release to what an attacker can do with it: names, labels, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from splitveil.bounds import (
    Certificate,
    Estimate,
    blocks,
    identification,
    shannon,
    undithered,
    utility_floor,
)
from splitveil.bounds.entropy import EntropyProfile
from splitveil.certificates.information import POPULATION, tightest
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = [
    "accuracy_limit",
    "certified_error",
    "error_estimates",
    "identification_certificates",
    "largest_share_limit",
    "utility_certificate",
]

_LIMITS = (0.001, 0.999)
_DITHERED = "pixels are whole levels of 255; they are dithered before their entropy is taken"


def identification_certificates(information: Sequence[Certificate], galleries: Sequence[int]) -> list[Certificate]:
    """How often an attacker can be right who picks one of M equally likely pictures, at most.

    ``capacity`` and ``payload`` hold for any gallery; ``mixture`` and ``gaussian_channel`` for galleries that are
    drawn from the population, on average over them.

    Args:
        information: certificates of one number of observations.
        galleries: M, each.
    """
    found: list[Certificate] = []
    sources = {tightest(information, any_gallery=True).name: tightest(information, any_gallery=True)}
    sources[tightest(information).name] = tightest(information)
    for source in sources.values():
        which = (
            "the gallery is drawn from the population, and the probability is the mean over such galleries"
            if source.name in POPULATION
            else "the gallery may be any"
        )
        found += [
            Certificate(
                name="identification",
                quantity=f"right among {gallery}",
                relation="<=",
                value=identification(max(source.value, 0.0), gallery),
                unit="probability",
                assumptions=(*source.assumptions, which, f"information by {source.name}"),
                reference="data processing for binary relative entropy; Polyanskiy and Wu, Theorem 3.12",
                observations=source.observations,
                confidence=source.confidence,
                n=source.n,
            )
            for gallery in galleries
        ]
    return found


def accuracy_limit(right: int, n: int, confidence: float) -> float:
    """Clopper and Pearson's lower limit of the probability to be right, exact for any n.

    Args:
        right: pictures that were classified right.
        n: of so many.
        confidence: one-sided.

    Example:
        >>> round(accuracy_limit(60, 100, 0.999), 3)
        0.441
    """
    return float(betaincinv(right, n - right + 1, 1 - confidence)) if right else 0.0


def largest_share_limit(labels: Tensor, classes: int, confidence: float) -> float:
    """Clopper and Pearson's upper limit of the share of the most frequent class, whichever it is.

    Args:
        labels: ``(n,)`` int64.
        classes: k; each has its part of what the limit may fail by.
        confidence: one-sided.

    Example:
        >>> round(largest_share_limit(torch.arange(100) % 2, 2, 0.999), 3)
        0.664
    """
    counts, n = torch.bincount(labels.cpu(), minlength=classes), len(labels)
    return 1 - accuracy_limit(n - int(counts.max()), n, 1 - (1 - confidence) / classes)


def utility_certificate(
    accuracy_low: float, largest_share: float, classes: int, confidence: float, n: int
) -> Certificate:
    """The information that a release must hold, as the task is solved with it.

    Args:
        accuracy_low: lower limit of the accuracy.
        largest_share: upper limit of the share of the most frequent class: who sees nothing is right as often.
        classes: k.
        confidence: of both limits together.
        n: pictures that they were measured on.
    """
    return Certificate(
        name="utility floor",
        quantity="information",
        relation=">=",
        value=utility_floor(accuracy_low, classes, largest_share),
        unit="nats",
        assumptions=("pictures are drawn from the population of the test split, independently of each other",),
        reference="data processing for binary relative entropy",
        confidence=confidence,
        n=n,
    )


def error_estimates(source: Certificate, profiles: Sequence[EntropyProfile], rng: Rng) -> list[Estimate]:
    """``shannon`` and ``blocks`` under each profile of the pictures' entropy.

    Args:
        source: the information.
        profiles: see `splitveil.bounds.entropy`.
        rng: of the resamples that give the limits.
    """
    found: list[Estimate] = []
    for profile in profiles:
        d, drawn = int(profile.sizes.sum()), profile.resampled(rng.child(profile.name))
        information = max(source.value, 0.0)
        whole = [undithered(shannon(float(row.sum()), information, d)) for row in drawn]
        cut = [undithered(blocks(row, profile.sizes, information)) for row in drawn]
        value = undithered(shannon(profile.total_nats, information, d))
        found.append(_estimate("shannon", "arXiv 2503.00383, Theorem 1", value, whole, source, profile))
        value = undithered(blocks(profile.nats, profile.sizes, information))
        found.append(_estimate("blocks", "ours; reverse water-filling", value, cut, source, profile))
    return found


def _estimate(
    name: str, reference: str, value: float, drawn: Sequence[float], source: Certificate, profile: EntropyProfile
) -> Estimate:
    low, high = np.quantile(drawn, _LIMITS)
    return Estimate(
        name=name,
        quantity="mse",
        relation=">=",
        value=value,
        unit="",
        assumptions=(*source.assumptions, _DITHERED, f"information by {source.name}"),
        reference=reference,
        observations=source.observations,
        confidence=source.confidence,
        n=len(profile.contributions),
        rests_on=f"entropy of pictures: {profile.name}, {profile.rests_on}",
        low=float(low),
        high=float(high),
    )


def certified_error(source: Certificate, entropy_nats: float, dimensions: int) -> Certificate:
    """Shannon's bound under an entropy of pictures that the user vouches for.

    Args:
        source: the information.
        entropy_nats: a lower bound on h(x) of dithered pictures in [0, 1].
        dimensions: d.

    Raises:
        SpecError: more than pixels of 256 levels can have, dithered: they lie in an interval 256/255 wide.
    """
    most = dimensions * math.log(256 / 255)
    if not entropy_nats <= most:
        raise SpecError(
            f"expected an entropy of at most {most:.4g} nats, that of {dimensions} independent, uniform values "
            f"in [0, 1], got {entropy_nats:g}: give the differential entropy, in nats, of pictures scaled to [0, 1]"
        )
    vouched = f"the entropy of dithered pictures is at least {entropy_nats:g} nats, as the user says"
    return Certificate(
        name="shannon",
        quantity="mse",
        relation=">=",
        value=undithered(shannon(entropy_nats, max(source.value, 0.0), dimensions)),
        unit="",
        assumptions=(*source.assumptions, vouched, _DITHERED),
        reference="arXiv 2503.00383, Theorem 1",
        observations=source.observations,
        confidence=source.confidence,
        n=source.n if math.isfinite(source.value) else None,
    )
