"""k-means inside each class, for all classes at once.

Samples stand in tiles of one class each, so assignment and update are batched matrix products; there is no loop over
classes, clusters of a class, or samples. The loops that remain are over Lloyd iterations, over the m draws of
k-means++, and over groups of classes that bound the working memory: a group iterates to its end while it is in the
cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.errors import InputError
from splitveil.mixtures.tiles import Tiles
from splitveil.rng import Rng

__all__ = [
    "CHUNK_VALUES",
    "Assignment",
    "assign",
    "fit_centroids",
    "nearest_centroid",
    "require_classes",
    "squared_norms",
]

CHUNK_VALUES = 1 << 21
"""Values of features that are worked on at a time, 8 MB in float32; a group of classes may take twice that."""


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
    _, clusters, q = centroids.shape
    size = max(1, CHUNK_VALUES // (clusters * q))
    found = []
    for rows, labels in zip(torch.split(z, size), torch.split(y, size), strict=True):
        distance = (centroids[labels] - rows.unsqueeze(1)).square_().sum(2)
        if alive is not None:
            distance = distance.masked_fill(~alive[labels], math.inf)
        found.append(distance.argmin(1))
    return torch.cat(found)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Samples of some tiles and their clusters.

    Args:
        member: ``(t, m, b)``, 1 where a sample belongs to a cluster, 0 elsewhere and for padding.
        distance: ``(t, b)`` squared distances to the own centroid, 0 for padding.
    """

    member: Tensor
    distance: Tensor

    @property
    def cluster(self) -> Tensor:
        """``(t, b)`` int64."""
        return self.member.argmax(1)


def assign(samples: Tensor, norms: Tensor, real: Tensor, centers: Tensor) -> Assignment:
    """The nearest centroid of the own class, for tiles of classes.

    Args:
        samples: ``(t, b, q)``, around an origin near the centroids: distances come from squares.
        norms: ``(t, b)``, their squared lengths.
        real: ``(t, b)`` bool, False for padding.
        centers: ``(t, m, q)``, the centroids of each tile's class around the same origin.
    """
    # ||z||^2 is the same for all centroids of a row, so the largest <z, mu> - ||mu||^2 / 2 is the nearest
    score = torch.bmm(centers, samples.transpose(1, 2)).sub_(0.5 * squared_norms(centers).unsqueeze(2))
    best = score.max(1)
    member = torch.zeros_like(score).scatter_(1, best.indices.unsqueeze(1), real.unsqueeze(1).to(score.dtype))
    return Assignment(member, (norms - 2 * best.values).clamp_(min=0).mul_(real))


def squared_norms(values: Tensor) -> Tensor:
    """Squared lengths along the last axis, without a copy of the values."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norms.square_()


def require_classes(count: Tensor) -> None:
    """Raise `InputError` where a class has no sample, ``count (k,)``."""
    missing = torch.nonzero(count == 0).flatten().tolist()
    if missing:
        raise InputError(
            f"expected samples of all {len(count)} classes for the mixture, got none of {missing[:5]}: do without "
            "classes, by balance=unlabeled of conditional entropy"
        )


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

    A cluster that loses all its samples moves to the sample of its class that is farthest from its own centroid.

    Args:
        z: ``(n, q)`` features, every class present.
        y: ``(n,)`` labels.
        classes: k.
        clusters: m per class. A class with fewer distinct features than m keeps the rest empty.
        rng: key of the k-means++ draws.
        start: ``(k, m, q)`` finite centroids to start from.
        iterations: at the most.
        tolerance: a group of classes stops when its mean squared distance improves by less than this share.

    Returns:
        centroids ``(k, m, q)`` and counts ``(k, m)``, those of the assignment before the last update.

    Raises:
        InputError: a class has no sample.
    """
    require_classes(torch.bincount(y, minlength=classes))
    tiles = Tiles.of(y, classes)
    arrivals = torch.empty(clusters, len(z)).exponential_(generator=rng.child("plus_plus").generator()).to(z)
    centroids, count = z.new_empty(classes, clusters, z.shape[1]), z.new_zeros(classes, clusters)
    room = CHUNK_VALUES // (tiles.rows.shape[1] * z.shape[1])
    for group in tiles.groups(room):
        first, last = int(group.segment[0]), int(group.segment[-1]) + 1
        own = Tiles(group.rows, group.real, group.segment - first, last - first)
        features = _Features(z, own, 2 * room)
        begin = _plus_plus(features, arrivals, clusters) if start is None else start[first:last]
        centroids[first:last], count[first:last] = _lloyd(features, begin, iterations, tolerance)
    return centroids, count


class _Features:
    """The samples of a group of classes: kept where they fit into the working memory, else gathered at each use."""

    def __init__(self, z: Tensor, tiles: Tiles, room: int) -> None:
        self.z, self.tiles = z, tiles
        self.parts = [tiles] if len(tiles) <= room else list(tiles.chunks(room))
        self._kept: tuple[Tensor, Tensor] | None = None

    def samples(self, part: Tiles, origin: Tensor) -> tuple[Tensor, Tensor]:
        """``(t, b, q)`` around the origins ``(k, q)`` of their classes, always the same, and squared norms."""
        if self._kept is not None:
            return self._kept
        samples = part.gather(self.z, origin)
        found = samples, squared_norms(samples)
        if len(self.parts) == 1:
            self._kept = found
        return found


def _plus_plus(features: _Features, arrivals: Tensor, clusters: int) -> Tensor:
    """k-means++ starts: in every class, draw with probability proportional to the squared distance so far."""
    tiles, z = features.tiles, features.z
    distance = torch.ones_like(tiles.rows, dtype=z.dtype)
    starts = z.new_zeros(tiles.segments, clusters, z.shape[1])
    step = len(features.parts[0])
    for cluster in range(clusters):
        # exponential races: the smallest e / w among independent e ~ Exp(1) is a draw with probability ~ w
        arrival = (arrivals[cluster][tiles.rows] / distance.clamp(min=1e-12)).masked_fill(~tiles.real, math.inf)
        first = arrival.min(1)
        won = arrival.new_full((tiles.segments,), math.inf).scatter_reduce_(0, tiles.segment, first.values, "amin")
        is_won = first.values == won[tiles.segment]
        row = tiles.rows.gather(1, first.indices.unsqueeze(1)).squeeze(1)
        winner = row.new_zeros(tiles.segments).scatter_reduce_(
            0, tiles.segment[is_won], row[is_won], "amax", include_self=False
        )
        starts[:, cluster] = z[winner]
        to_new = torch.cat([part.gather(z, starts[:, cluster]).square_().sum(2) for part in tiles.chunks(step)])
        distance = to_new if cluster == 0 else torch.minimum(distance, to_new)
    return starts


def _lloyd(features: _Features, start: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
    origin = start.mean(1)  # distances do not change with the origin, but the rounding of squares does
    centroids = start - origin.unsqueeze(1)
    count, previous = start.new_zeros(start.shape[:2]), math.inf
    for _ in range(iterations):
        total, count, distances = torch.zeros_like(centroids), torch.zeros_like(count), []
        for part in features.parts:
            samples, norms = features.samples(part, origin)
            found = assign(samples, norms, part.real, centroids[part.segment])
            part.add(total, torch.bmm(found.member, samples))
            part.add(count, found.member.sum(2))
            distances.append(found.distance)
        kept = (count > 0).unsqueeze(2)
        centroids = torch.where(kept, total / count.clamp(min=1).unsqueeze(2), centroids)
        error, empty = torch.stack([torch.cat(distances).sum(), (count == 0).sum()]).tolist()
        moved = empty > 0 and _fill_empty(features, torch.cat(distances), centroids, count, origin)
        if not moved and previous - error <= tolerance * error:
            break
        previous = error
    return centroids + origin.unsqueeze(1), count


def _fill_empty(features: _Features, distance: Tensor, centroids: Tensor, count: Tensor, origin: Tensor) -> bool:
    """Put each empty cluster on one of the farthest samples of its class, in place; whether any was put."""
    tiles, z = features.tiles, features.z
    rows, label = tiles.rows.flatten(), tiles.segment.unsqueeze(1).expand_as(tiles.rows).flatten()
    far = distance.flatten()
    order = far.argsort(descending=True, stable=True)
    order = order[label[order].argsort(stable=True)]
    size = torch.bincount(label, minlength=tiles.segments)
    rank = (count == 0).cumsum(1) - 1  # the j-th empty cluster of a class takes its j-th farthest sample
    place = (size.cumsum(0) - size).unsqueeze(1) + rank.clamp(min=0).minimum(size.unsqueeze(1) - 1)
    chosen = order[place]
    sample = z[rows[chosen]] - origin.unsqueeze(1)
    # what the rounding of squares leaves of a distance of zero is no reason to move
    real = far[chosen] > 64 * torch.finfo(z.dtype).eps * sample.square().sum(2)
    fill = (count == 0) & real
    centroids.copy_(torch.where(fill.unsqueeze(2), sample, centroids))
    return bool(fill.any())
