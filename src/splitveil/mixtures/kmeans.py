"""k-means inside each class, for all classes at once.

Every step is a matrix product or a segment sum over the whole set, so there is no loop over classes or samples; the
only loops are over Lloyd iterations, over the m draws of k-means++, and over chunks that bound the working memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.errors import InputError
from splitveil.rng import Rng

__all__ = ["fit_centroids", "nearest_centroid", "segment_mean"]

_CHUNK = 8192


def nearest_centroid(z: Tensor, y: Tensor, centroids: Tensor, alive: Tensor | None = None) -> Tensor:
    """Index of the nearest centroid among those of the sample's own class.

    Args:
        z: ``(n, q)`` features.
        y: ``(n,)`` labels, int64 in [0, k).
        centroids: ``(k, m, q)``.
        alive: ``(k, m)`` bool; clusters that hold no sample are never chosen.

    Returns:
        ``(n,)`` int64 in [0, m).

    Example:
        >>> centroids = torch.tensor([[[0.0], [1.0]], [[0.4], [5.0]]])
        >>> nearest_centroid(torch.tensor([[0.45], [0.45]]), torch.tensor([0, 1]), centroids)
        tensor([0, 0])
    """
    classes, clusters, q = centroids.shape
    flat = centroids.reshape(-1, q)
    # distances do not change with the origin, but the rounding of the squares below does
    origin = flat.mean(0)
    flat = flat - origin
    half_norm = 0.5 * flat.square().sum(1)
    if alive is not None:
        half_norm = half_norm.masked_fill(~alive.reshape(-1), float("inf"))
    found = []
    for start in range(0, len(z), _CHUNK):
        rows, labels = z[start : start + _CHUNK], y[start : start + _CHUNK]
        # ||z||^2 is the same for all centroids of a row, so the largest <z, mu> - ||mu||^2 / 2 is the nearest
        score = ((rows - origin) @ flat.T - half_norm).view(-1, classes, clusters)
        own = score.gather(1, labels.view(-1, 1, 1).expand(-1, 1, clusters)).squeeze(1)
        found.append(own.argmax(1))
    return torch.cat(found)


def segment_mean(values: Tensor, index: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Means over segments.

    Args:
        values: ``(n, q)``.
        index: ``(n,)`` int64 in [0, segments).
        segments: how many.

    Returns:
        means ``(segments, q)``, zero where a segment is empty; counts ``(segments,)`` in the dtype of `values`.
    """
    total = values.new_zeros(segments, values.shape[1]).index_add_(0, index, values)
    count = values.new_zeros(segments).index_add_(0, index, values.new_ones(len(index)))
    return total / count.clamp(min=1).unsqueeze(1), count


def _plus_plus(z: Tensor, y: Tensor, classes: int, clusters: int, rng: Rng) -> Tensor:
    """k-means++ starts: in every class, draw with probability proportional to the squared distance so far."""
    n, q = z.shape
    distance = z.new_full((n,), 1.0)
    starts = z.new_zeros(classes, clusters, q)
    generator = rng.child("plus_plus").generator()
    rows = torch.arange(n, device=z.device)
    for cluster in range(clusters):
        # exponential races: the smallest e / w among independent e ~ Exp(1) is a draw with probability ~ w
        arrival = torch.empty(n).exponential_(generator=generator).to(z) / distance.clamp(min=1e-12)
        first = arrival.new_full((classes,), float("inf")).scatter_reduce_(0, y, arrival, "amin")
        is_first = arrival == first[y]
        winner = rows.new_zeros(classes).scatter_reduce_(0, y[is_first], rows[is_first], "amax", include_self=False)
        starts[:, cluster] = z[winner]
        to_new = (z - starts[y, cluster]).square().sum(1)
        distance = to_new if cluster == 0 else torch.minimum(distance, to_new)
    return starts


def fit_centroids(
    z: Tensor,
    y: Tensor,
    classes: int,
    clusters: int,
    rng: Rng,
    *,
    start: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm within each class, from k-means++ or from the centroids of the last fit.

    Args:
        z: ``(n, q)`` features, every class present.
        y: ``(n,)`` labels.
        classes: k.
        clusters: m per class. A class with fewer distinct features than m keeps the rest empty.
        rng: key of the k-means++ draws.
        start: ``(k, m, q)`` finite centroids to start from.
        iterations: at the most.
        tolerance: stop when the mean squared distance improves by less than this share.

    Returns:
        centroids ``(k, m, q)`` and counts ``(k, m)``. Empty clusters stay at their place, with count 0.

    Raises:
        InputError: a class has no sample.
    """
    present = torch.bincount(y, minlength=classes)
    if int((present == 0).sum()):
        missing = torch.nonzero(present == 0).flatten().tolist()
        raise InputError(f"expected samples of all {classes} classes for the mixture, got none of {missing[:5]}")
    centroids = _plus_plus(z, y, classes, clusters, rng) if start is None else start.clone()
    previous = float("inf")
    count = z.new_zeros(classes, clusters)
    for _ in range(iterations):
        assigned = y * clusters + nearest_centroid(z, y, centroids)
        means, flat_count = segment_mean(z, assigned, classes * clusters)
        count = flat_count.view(classes, clusters)
        kept = (count > 0).unsqueeze(2)
        centroids = torch.where(kept, means.view_as(centroids), centroids)
        error = float((z - centroids.view(-1, z.shape[1])[assigned]).square().mean())
        if previous - error <= tolerance * error:
            break
        previous = error
    return centroids, count
