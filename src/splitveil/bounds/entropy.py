"""How random pictures are: entropies of dithered pictures, coordinate by coordinate, each given those before.

No number of samples certifies a lower bound on an entropy, so whatever rests on these is an estimate. The Gaussian and
the mixture profiles lie above the truth in expectation, the nearest neighbours' may lie on either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma, gammaln
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng

__all__ = [
    "Array",
    "EntropyProfile",
    "PrincipalAxes",
    "dither",
    "gaussian_profile",
    "mixture_profile",
    "neighbour_profile",
]

Array = NDArray[np.float64]

_LEAST = 1e-30  # a variance, or a distance, whose logarithm is still a number


@dataclass(frozen=True)
class EntropyProfile:
    """Conditional entropies ``h(x_k | x_<k)`` of blocks of orthonormal coordinates.

    Args:
        name: of the estimator.
        sizes: ``(b,)``, coordinates per block.
        contributions: ``(n, b)`` nats; their means are the entropies.
        rests_on: what was estimated, in words.
    """

    name: str
    sizes: Array
    contributions: Array
    rests_on: str

    @property
    def nats(self) -> Array:
        """``(b,)``."""
        mean: Array = self.contributions.mean(0)
        return mean

    @property
    def total_nats(self) -> float:
        """h(x) of all coordinates."""
        return float(self.nats.sum())

    def resampled(self, rng: Rng, count: int = 200) -> Array:
        """``(count, b)``: the entropies on bootstrap resamples of the pictures."""
        n = len(self.contributions)
        weights = rng.numpy().multinomial(n, np.full(n, 1 / n), size=count) / n
        drawn: Array = weights @ self.contributions
        return drawn


@dataclass(frozen=True)
class PrincipalAxes:
    """Orthonormal coordinates along which pictures vary most first.

    Args:
        mean: ``(d,)``.
        directions: ``(d, d)``, a column per axis.
    """

    mean: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> PrincipalAxes:
        """Of pictures ``(n, d)``; axes that the samples do not determine are orthonormal all the same."""
        if x.ndim != 2 or len(x) < 2:
            raise InputError(f"expected pictures of shape (n, d), n >= 2, got {tuple(x.shape)}")
        rows = x.float()
        mean = rows.mean(0)
        _, axes = torch.linalg.eigh(torch.cov((rows - mean).T).reshape(rows.shape[1], rows.shape[1]))
        return cls(mean, axes.flip(1))

    def coordinates(self, x: Tensor) -> Array:
        """``(n, d)`` along the axes."""
        found: Array = ((x.float() - self.mean) @ self.directions).double().cpu().numpy()
        return found


def dither(images: Tensor, rng: Rng) -> Tensor:
    """Pixels as the density that they are a grid of: ``(x + u) / 255``, u uniform in [-1/2, 1/2).

    Args:
        images: ``(n, c, h, w)`` uint8.
        rng: of the dither.

    Returns:
        ``(n, c h w)`` float32.

    Example:
        >>> x = dither(torch.full((2, 1, 2, 2), 255, dtype=torch.uint8), Rng(0))
        >>> bool(((x - 1).abs() <= 0.5 / 255).all())
        True
    """
    if images.dtype != torch.uint8:
        raise InputError(f"expected bytes, got {images.dtype}: pictures in [0, 1] have lost their grid")
    noise = torch.rand(images.shape, generator=rng.generator()) - 0.5
    return ((images.float() + noise.to(images.device)) / 255).flatten(1)


def gaussian_profile(coordinates: Array) -> EntropyProfile:
    """``1/2 ln(2 pi e var)`` of each coordinate: a ceiling, whatever the distribution, reached by a Gaussian's axes.

    Args:
        coordinates: ``(n, d)``, of pictures that the axes were not fitted on.

    Example:
        >>> x = np.array([[2.0], [-2.0]])
        >>> round(gaussian_profile(x).total_nats - 0.5 * math.log(2 * math.pi * math.e * 4), 9)
        0.0
    """
    centred = coordinates - coordinates.mean(0)
    variance = np.maximum(centred.var(0), _LEAST)
    contributions = 0.5 * np.log(2 * math.pi * variance) + centred**2 / (2 * variance)
    return EntropyProfile(
        "Gaussian ceiling", np.ones(coordinates.shape[1]), contributions, "the variances of pictures along their axes"
    )


def mixture_profile(
    fitted: Array, held_out: Array, *, leading: int = 48, components: int = 16, rng: Rng
) -> EntropyProfile:
    """``-E ln g(x_k | x_<k)`` for the leading coordinates, g a Gaussian mixture; the Gaussian ceiling for the others.

    Args:
        fitted: ``(n, d)``, coordinates that g is fitted to.
        held_out: ``(m, d)``, others that the entropies are taken on.
        leading: coordinates that g describes.
        components: of g.
        rng: of the fit.
    """
    leading = min(leading, fitted.shape[1])
    components = max(1, min(components, len(fitted) // (2 * leading)))
    mixture = GaussianMixture(components, reg_covar=1e-8, random_state=int(rng.numpy().integers(2**31)))
    mixture.fit(fitted[:, :leading])
    joint = _cumulative_log_density(mixture, held_out[:, :leading])
    own = -np.diff(joint, axis=1, prepend=0.0)
    rest = gaussian_profile(held_out).contributions
    return EntropyProfile(
        "mixture",
        np.ones(held_out.shape[1]),
        np.concatenate([own, rest[:, leading:]], axis=1),
        f"the density of pictures along {leading} axes, by a mixture of {components} Gaussians",
    )


def _cumulative_log_density(mixture: GaussianMixture, x: Array) -> Array:
    """``ln g(x_1 ... x_k)`` for each k: leading coordinates of a Gaussian are a Gaussian, read off the Cholesky."""
    weights, means, covariances = (
        np.asarray(item) for item in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    logs = np.empty((len(weights), *x.shape))
    for place, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        root = np.linalg.cholesky(covariance)
        white = np.linalg.solve(root, (x - mean).T).T
        own = -0.5 * (white**2 + math.log(2 * math.pi)) - np.log(np.diag(root))
        logs[place] = np.log(weights[place]) + own.cumsum(1)
    found: Array = np.logaddexp.reduce(logs, axis=0)
    return found


def neighbour_profile(
    coordinates: Array, sizes: Sequence[int] = (1, 1, 2, 4), *, neighbours: int = 4
) -> EntropyProfile:
    """Kozachenko and Leonenko's estimate for leading blocks, as differences; the Gaussian ceiling for the others.

    ```
    h(x_1 .. x_m) = psi(n) - psi(k) + ln V_m + m/n sum_i ln e_i,     e_i the distance to the k-th nearest neighbour
    ```

    Args:
        coordinates: ``(n, d)``.
        sizes: of the leading blocks; differences of many dimensions are not to be had from samples.
        neighbours: k.

    Raises:
        SpecError: as many neighbours as pictures.
    """
    n, d = coordinates.shape
    if not 1 <= neighbours < n:
        raise SpecError(f"expected between 1 and {n - 1} neighbours, got {neighbours}")
    ends = [int(end) for end in np.cumsum(sizes) if end <= d]
    joint = np.stack([_neighbour_terms(coordinates[:, :end], neighbours) for end in ends], axis=1)
    own = np.diff(joint, axis=1, prepend=0.0)
    rest = gaussian_profile(coordinates).contributions[:, ends[-1] :]
    return EntropyProfile(
        "nearest neighbours",
        np.concatenate([np.diff(ends, prepend=0), np.ones(d - ends[-1])]).astype(np.float64),
        np.concatenate([own, rest], axis=1),
        f"the density of pictures along {ends[-1]} axes, by distances to the {neighbours}th neighbour",
    )


def _neighbour_terms(x: Array, neighbours: int) -> Array:
    n, m = x.shape
    distances, _ = NearestNeighbors(n_neighbors=neighbours + 1).fit(x).kneighbors(x)
    volume = 0.5 * m * math.log(math.pi) - float(gammaln(0.5 * m + 1))
    terms: Array = digamma(n) - digamma(neighbours) + volume + m * np.log(np.maximum(distances[:, -1], _LEAST))
    return terms
