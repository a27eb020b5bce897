"""The formulas of the bound, one sample and one matrix at a time in float64: slow and obviously right."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.mixtures import ClassMixture, Covariance

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """A mixture in NumPy: ``centroids (k, m, q)``, ``variances (k, m, q or 1)``, ``weights (k, m)``.

    ``factors (k m, q, r)`` make the covariances low-rank, ``covariances (k m, q, q)`` full.
    """

    centroids: Array
    variances: Array
    weights: Array
    factors: Array | None = None
    covariances: Array | None = None

    @property
    def q(self) -> int:
        return self.centroids.shape[2]

    @property
    def kind(self) -> Covariance:
        """The covariance by its name."""
        if self.factors is not None:
            return "low_rank"
        if self.covariances is not None:
            return "full"
        return "isotropic" if self.variances.shape[2] == 1 else "diagonal"

    def covariance(self, label: int, cluster: int) -> Array:
        """S of a component as a matrix."""
        index = label * self.weights.shape[1] + cluster
        if self.covariances is not None:
            return self.covariances[index]
        diagonal = np.diag(np.broadcast_to(self.variances[label, cluster], (self.q,)))
        if self.factors is None:
            return diagonal
        inside = self.factors[index] @ self.factors[index].T
        return np.diag(np.maximum(np.diag(diagonal - inside), 0.0)) + inside

    def nearest(self, z: Array, label: int) -> int:
        """The nearest occupied cluster of a class."""
        alive = np.flatnonzero(self.weights[label] > 0)
        return int(alive[np.argmin(((self.centroids[label, alive] - z) ** 2).sum(1))])

    def classes_moved(self, order: list[int]) -> Statistics:
        """The statistics of class ``order[c]`` at the place of class c."""
        clusters = self.weights.shape[1]
        rows = [label * clusters + cluster for label in order for cluster in range(clusters)]
        return Statistics(
            self.centroids[order],
            self.variances[order],
            self.weights[order],
            None if self.factors is None else self.factors[rows],
            None if self.covariances is None else self.covariances[rows],
        )

    def module(self, noise_variance: float | Array = 1.0) -> ClassMixture:
        """As the product holds it, float64, seen through this noise, ``()`` or ``(q,)``."""
        classes, clusters, q = self.centroids.shape
        rank = 8 if self.factors is None else self.factors.shape[2]
        mixture = ClassMixture(classes, clusters, q, self.kind, rank=rank).double()
        state = {"centroids": self.centroids, "variances": self.variances, "weights": self.weights}
        state |= {"factors": self.factors} if self.factors is not None else {}
        state |= {"covariances": self.covariances} if self.covariances is not None else {}
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        noise = torch.as_tensor(noise_variance, dtype=torch.float64).expand(q).clone()
        mixture.load_state_dict({**tensors, "noise": noise, "fitted": torch.tensor(True)})
        return mixture


def statistics_of(mixture: ClassMixture) -> Statistics:
    """What a mixture holds, as float64."""
    names = ("centroids", "variances", "weights", "factors", "covariances")
    values = (getattr(mixture, name, None) for name in names)
    return Statistics(*(None if value is None else value.double().numpy() for value in values))


def draw_statistics(
    seed: int, classes: int, clusters: int, q: int, kind: Covariance = "diagonal", *, empty: bool = False
) -> Statistics:
    """Components of very different place, spread and weight; with `empty`, a cluster of class 0 has no weight."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(classes * clusters)).reshape(classes, clusters) * 0.9 + 0.1 / (classes * clusters)
    if empty:
        weights[0, 0] = 0.0
        weights /= weights.sum()
    centroids = rng.normal(size=(classes, clusters, q)) * 2.0
    variances = np.exp(rng.normal(size=(classes, clusters, 1 if kind == "isotropic" else q)))
    factors = covariances = None
    if kind == "low_rank":
        factors = 0.5 * rng.normal(size=(classes * clusters, q, min(2, q)))
        variances = variances + (factors**2).sum(2).reshape(variances.shape)
    if kind == "full":
        shape = rng.normal(size=(classes * clusters, q, q + 1))
        covariances = shape @ shape.transpose(0, 2, 1) / q
        variances = np.diagonal(covariances, axis1=1, axis2=2).reshape(variances.shape).copy()
    return Statistics(centroids, variances, weights, factors, covariances)


def draw_batch(seed: int, n: int, classes: int, q: int) -> tuple[Array, Labels]:
    """Features and labels, the latter in any order and not of all classes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, q)) * 2.0, rng.integers(0, classes, n)


def bound(z: Array, noise_variance: Array, y: Labels, g: Statistics, mean_noise: Array | None = None) -> Array:
    """METHODS section 2: ``-ln pi + 1/2 [tr(V^-1 D) + d' V^-1 d - q + ln det V - ln det D]``, D the noise of a sample.

    Args:
        z: ``(n, q)``.
        noise_variance: ``(n, q)``.
        y: ``(n,)``.
        g: the mixture.
        mean_noise: ``(q,)``, what V takes; the mean over the batch by default.
    """
    values, noise_of_g = [], noise_variance.mean(0) if mean_noise is None else mean_noise
    for row, noise, label in zip(z, noise_variance, y, strict=True):
        cluster = g.nearest(row, label)
        total = g.covariance(label, cluster) + np.diag(noise_of_g)
        inverse = np.linalg.inv(total)
        away = row - g.centroids[label, cluster]
        values.append(
            -math.log(g.weights[label, cluster])
            + 0.5
            * (
                np.trace(inverse @ np.diag(noise))
                + away @ inverse @ away
                - g.q
                + np.linalg.slogdet(total)[1]
                - np.linalg.slogdet(np.diag(noise))[1]
            )
        )
    return np.array(values)


def theorem_two(noise_variance: float, g: Statistics) -> float:
    """``sum_i pi_i [ -ln pi_i + 1/2 ln det(I + S_i / s^2) ]``."""
    value = 0.0
    for label, cluster in zip(*np.nonzero(g.weights), strict=True):
        log_det = np.linalg.slogdet(np.eye(g.q) + g.covariance(label, cluster) / noise_variance)[1]
        value += g.weights[label, cluster] * (-math.log(g.weights[label, cluster]) + 0.5 * log_det)
    return value


def thresholded_trace(
    z: Array, noise_variance: float, y: Labels, g: Statistics, class_size: float, threshold: float
) -> float:
    """METHODS section 2, as the official code trains it, with each class's own statistics."""
    losses = []
    for label in sorted(set(y.tolist())):
        own = z[y == label]
        cluster_of = np.array([g.nearest(row, label) for row in own])
        loss = 0.0
        for cluster in sorted(set(cluster_of.tolist())):
            members = own[cluster_of == cluster]
            share = g.weights[label, cluster] / g.weights[label].sum()
            mix = min(0.99, 10 * len(members) / (share * class_size))
            batch = float(((members - g.centroids[label, cluster]) ** 2).mean())
            stored = float(g.variances[label, cluster].mean())
            variance = mix * batch + (1 - mix) * stored
            loss += share * max(0.0, math.log(variance + 0.01) - math.log(threshold * noise_variance + 0.01))
        losses.append(loss)
    return sum(losses) / len(losses)


def rescaled(g: Statistics, factor: float) -> Statistics:
    """The mixture of ``factor * z``."""
    return replace(
        g,
        centroids=g.centroids * factor,
        variances=g.variances * factor**2,
        factors=None if g.factors is None else g.factors * factor,
        covariances=None if g.covariances is None else g.covariances * factor**2,
    )


def mutual_information(z: Array, noise_std: float) -> float:
    """I(x; r) in nats of one-dimensional features that are equally likely, by quadrature."""
    grid = np.linspace(z.min() - 9 * noise_std, z.max() + 9 * noise_std, 6001)
    scaled = (grid[:, None] - z[None, :]) / noise_std
    density = np.exp(-0.5 * scaled**2).mean(1) / (noise_std * math.sqrt(2 * math.pi))
    entropy = -np.trapezoid(density * np.log(np.maximum(density, 1e-300)), grid)
    return float(entropy - 0.5 * math.log(2 * math.pi * math.e * noise_std**2))


def looped_bound(mean: Tensor, noise_variance: Tensor, y: Tensor, mixture: ClassMixture) -> Tensor:
    """The mean bound per dimension with gradient, class by class and cluster by cluster; diagonal covariances.

    What the loop-free loss is timed against and must agree with.
    """
    total = mean.new_zeros(())
    for label in y.unique().tolist():
        own = mean[y == label]
        distance = torch.stack([(own.detach() - center).square().sum(1) for center in mixture.centroids[label]], 1)
        nearest = distance.masked_fill(mixture.weights[label] <= 0, math.inf).argmin(1)
        for cluster in range(mixture.clusters):
            members = own[nearest == cluster]
            if not len(members):
                continue
            spread = mixture.variances[label, cluster] + noise_variance
            away = members - mixture.centroids[label, cluster]
            divergence = (noise_variance + away.square()) / spread - 1 + spread.log() - noise_variance.log()
            total = total + (0.5 * divergence.sum(1) - mixture.weights[label, cluster].log()).sum()
    return total / len(mean) / mixture.q
