"""A Gaussian mixture of features, with clusters inside each class, fitted for all classes at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from splitveil.errors import InputError, SpecError
from splitveil.mixtures.kmeans import fit_centroids, nearest_centroid, segment_mean
from splitveil.rng import Rng

__all__ = ["ClassMixture", "Covariance"]

Covariance = Literal["isotropic", "diagonal"]


class ClassMixture(nn.Module):
    """``g = sum_c pi_c N(mu_c, S_c)`` over all clusters c of all classes; its buffers are saved and resumed.

    Buffers: ``centroids (k, m, q)``, ``variances (k, m, q)`` or ``(k, m, 1)`` around the centroids, ``weights (k, m)``
    that sum to 1 over all components, ``fitted`` (scalar bool). Clusters without samples have weight 0, stay aligned
    with their centroid, and are never assigned to.

    Args:
        classes: k.
        clusters: m, per class.
        q: feature dimension.
        covariance: ``isotropic`` (one variance per cluster) or ``diagonal`` (one per cluster and dimension).

    Example:
        >>> mixture = ClassMixture(classes=2, clusters=1, q=3)
        >>> mixture.fit(torch.randn(20, 3), torch.arange(20) % 2, Rng(0))
        >>> float(mixture.weights.sum())
        1.0
    """

    centroids: Tensor
    variances: Tensor
    weights: Tensor
    fitted: Tensor

    def __init__(self, classes: int, clusters: int, q: int, covariance: Covariance = "diagonal") -> None:
        super().__init__()
        if classes < 1 or clusters < 1 or q < 1:
            raise SpecError(f"expected classes, clusters and q >= 1, got {classes}, {clusters} and {q}")
        self.classes, self.clusters, self.q = classes, clusters, q
        self.register_buffer("centroids", torch.zeros(classes, clusters, q))
        self.register_buffer("variances", torch.zeros(classes, clusters, q if covariance == "diagonal" else 1))
        self.register_buffer("weights", torch.zeros(classes, clusters))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    def fit(self, z: Tensor, y: Tensor, rng: Rng, *, iterations: int = 50) -> None:
        """Fit to features; a second fit starts from the centroids of the first.

        Args:
            z: ``(n, q)``.
            y: ``(n,)`` int64 in [0, k), every class present.
            rng: key of the k-means++ draws of the first fit.
            iterations: of Lloyd's algorithm, at the most.
        """
        if z.ndim != 2 or z.shape[1] != self.q or len(z) != len(y):
            raise InputError(
                f"expected features (n, {self.q}) and labels (n,), got {tuple(z.shape)} and {tuple(y.shape)}"
            )
        start = self.centroids if bool(self.fitted) else None
        self.centroids, count = fit_centroids(
            z, y, self.classes, self.clusters, rng, start=start, iterations=iterations
        )
        self.weights = count / count.sum()
        component = self.component(z, y)
        # Lloyd's last step moved the centroids, so shares and variances are both those of the assignment to them
        variance, count = segment_mean(
            (z - self.centroids.view(-1, self.q)[component]).square(), component, self.classes * self.clusters
        )
        self.weights = (count / count.sum()).view_as(self.weights)
        if self.variances.shape[2] == 1:
            variance = variance.mean(1, keepdim=True)
        self.variances = variance.view_as(self.variances)
        self.fitted = torch.ones_like(self.fitted)

    def component(self, z: Tensor, y: Tensor) -> Tensor:
        """The component of each sample, ``(n,)`` in [0, k*m): the nearest occupied cluster of its own class."""
        return y * self.clusters + nearest_centroid(z, y, self.centroids, self.weights > 0)
