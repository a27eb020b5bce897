"""From information to a name: who can be found in a gallery, what a classifier needs, what a release demonstrates."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from splitveil.errors import InputError, SpecError

__all__ = [
    "binary_relative_entropy",
    "demonstrated_information",
    "identification",
    "identification_information",
    "utility_floor",
]

_ROUNDING = 1e-9


def binary_relative_entropy(p: float, q: float) -> float:
    """``kl(p || q) = p ln(p/q) + (1 - p) ln((1 - p)/(1 - q))`` in nats.

    Args:
        p: in [0, 1].
        q: in (0, 1).

    Raises:
        SpecError: out of range.

    Example:
        >>> round(binary_relative_entropy(0.9, 0.1), 3)
        1.758
    """
    if not 0 <= p <= 1 or not 0 < q < 1:
        raise SpecError(f"expected p in [0, 1] and q in (0, 1), got {p} and {q}")
    return _times_log(p, q) + _times_log(1 - p, 1 - q)


def _times_log(p: float, q: float) -> float:
    return p * math.log(p / q) if p > 0 else 0.0


def identification(information_nats: float, gallery: int) -> float:
    """The most that any attacker is right who picks one of M equally likely pictures.

    ```
    p = max { p >= 1/M : kl(p || 1/M) <= I }
    ```
    The data processing inequality, applied to whether the pick is right; the usual form of Fano's inequality is looser.

    Args:
        information_nats: I, an upper bound on the information in what the attacker sees about which of them it is.
        gallery: M >= 2.

    Raises:
        SpecError: a negative information, or a gallery of fewer than two.

    Reference:
        Polyanskiy and Wu: Information Theory, Theorem 3.12 and its proof.

    Example:
        >>> round(identification(2.0, 10_000), 3)
        0.282
        >>> identification(10.0, 10_000)
        1.0
    """
    chance = 1 / _checked_gallery(gallery)
    if not information_nats >= 0:
        raise SpecError(f"expected information >= 0 nats, got {information_nats}")
    if information_nats >= math.log(gallery):
        return 1.0
    return float(brentq(lambda p: binary_relative_entropy(p, chance) - information_nats, chance, 1.0, xtol=1e-12))


def identification_information(probability: float, gallery: int) -> float:
    """The information that lets nobody pick the right one of M more often than this: the inverse of `identification`.

    Args:
        probability: above 1 / M, at most 1.
        gallery: M >= 2.

    Raises:
        SpecError: a probability that chance reaches, or above 1.

    Example:
        >>> round(identification_information(0.5, 10_000), 2)
        3.91
    """
    if not 1 / _checked_gallery(gallery) < probability <= 1:
        raise SpecError(
            f"expected a probability above chance, 1/{gallery} = {1 / gallery:.3g}, and at most 1, got {probability}"
        )
    return binary_relative_entropy(probability, 1 / gallery)


def utility_floor(accuracy: float, classes: int, largest_share: float | None = None) -> float:
    """The information that a release must hold for a classifier of this accuracy.

    Whoever sees no release is right as often as the most frequent class at most.

    Args:
        accuracy: share of right answers.
        classes: k >= 2.
        largest_share: of the most frequent class, or an upper limit of it; 1/k, equally likely classes, by default.

    Raises:
        SpecError: fewer than two classes, or a share that is below 1/k or above 1.

    Example:
        >>> round(utility_floor(0.9, 10), 2), utility_floor(0.9, 10, largest_share=0.9)
        (1.76, 0.0)
    """
    least = 1 / _checked_gallery(classes)
    chance = least if largest_share is None else largest_share
    if not least <= chance + _ROUNDING or not chance <= 1:
        raise SpecError(f"expected a largest share from 1/{classes} to 1, got {largest_share}")
    return 0.0 if accuracy <= chance else binary_relative_entropy(accuracy, chance)


def _checked_gallery(gallery: int) -> int:
    if gallery < 2:
        raise SpecError(f"expected at least two to choose among, got {gallery}")
    return gallery


def demonstrated_information(
    means: Tensor, variances: Tensor, releases: Tensor, *, rows: int = 256
) -> tuple[Tensor, Tensor]:
    """What releases demonstrably tell about which of M pictures they are of, through a known Gaussian channel.

    ```
    l_ij = ln p(r_i | x_j),   nats_i = l_ii - ln( 1/M sum_j exp l_ij ),   found_i = 1 / t if l_ii ties for first of t
    ```
    The mean of `nats` is, in expectation over pictures drawn from the population, at most I(x; r), and at most ln M;
    the mean of `found` is what the best of all attackers reaches in this gallery.

    Args:
        means: ``(M, q)``, the noise-free releases of the gallery.
        variances: ``(q,)`` or ``(M, q)``, of the noise; positive.
        releases: ``(M, q)``, one of each picture of the gallery, in the same order.
        rows: releases that are compared at a time.

    Returns:
        ``nats (M,)`` and ``found (M,)``, float64.

    Raises:
        InputError: shapes that do not match, or fewer than two pictures.

    Reference:
        Poole et al.: On Variational Bounds of Mutual Information, ICML 2019, with the true density for the critic.

    Example:
        >>> means = torch.eye(3)
        >>> nats, found = demonstrated_information(means, torch.full((3,), 1e-4), means)
        >>> round(float(nats.mean()), 4), float(found.mean())  # ln 3
        (1.0986, 1.0)
    """
    count, q = means.shape if means.ndim == 2 else (0, 0)
    if count < 2 or releases.shape != means.shape:
        raise InputError(
            f"expected means and releases of shape (M, q), M >= 2, got {tuple(means.shape)} and {tuple(releases.shape)}"
        )
    precision = variances.double().expand(count, q).reciprocal()
    centre = means.double()
    offset = (centre.square() * precision).sum(1) - precision.log().sum(1)
    nats, found = list[Tensor](), list[Tensor]()
    for places in torch.split(torch.arange(count), rows):
        r = releases[places].double()
        energy = r.square() @ precision.T - 2 * (r @ (centre * precision).T) + offset
        scores = -0.5 * energy
        own = scores.gather(1, places[:, None].to(scores.device)).squeeze(1)
        nats.append(own - scores.logsumexp(1) + math.log(count))
        largest = scores.amax(1)
        found.append((own >= largest).double() / (scores >= largest[:, None]).sum(1))
    return torch.cat(nats), torch.cat(found)
