"""A mixture of more features than memory holds."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from splitveil.errors import InputError, SpecError
from splitveil.mixtures.class_mixture import ClassMixture
from splitveil.mixtures.kmeans import require_classes
from splitveil.rng import Rng

__all__ = ["Reservoir", "fit_stream"]


class Reservoir:
    """A uniform sample of each class of a stream, of a fixed size, without knowing the length of the stream.

    Every sample draws a key in (0, 1); a class keeps those with its smallest keys.

    Args:
        classes: k.
        per_class: samples that a class keeps.
        rng: of the keys.
    """

    def __init__(self, classes: int, per_class: int, rng: Rng) -> None:
        if per_class < 1:
            raise SpecError(f"expected room for at least one sample of each of {classes} classes, got {per_class}")
        self.per_class = per_class
        self.count = torch.zeros(classes, dtype=torch.int64)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._bar = torch.full((classes,), torch.inf, dtype=torch.float64)
        self._generator = rng.child("reservoir").generator()
        self._kept: tuple[Tensor, Tensor] | None = None

    def add(self, z: Tensor, y: Tensor) -> None:
        """Offer a chunk, ``z (n, q)`` and ``y (n,)``."""
        labels = y.cpu()
        self.count += torch.bincount(labels, minlength=len(self.count))
        keys = torch.rand(len(labels), generator=self._generator, dtype=torch.float64)
        offered = torch.nonzero(keys < self._bar[labels]).flatten()
        if not len(offered):
            return
        keys, labels, rows = keys[offered], labels[offered], z[offered.to(z.device)]
        if self._kept is not None:
            keys, labels = torch.cat([self._keys, keys]), torch.cat([self._kept[1], labels])
            rows = torch.cat([self._kept[0], rows])
        order = keys.argsort()
        order = order[labels[order].argsort(stable=True)]
        size = torch.bincount(labels, minlength=len(self.count))
        first = size.cumsum(0) - size
        rank = torch.arange(len(order)) - first[labels[order]]
        kept = order[rank < self.per_class].sort().values
        full = size >= self.per_class
        self._bar[full] = keys[order[(first + self.per_class - 1)[full]]]
        self._keys = keys[kept]
        self._kept = (rows[kept.to(rows.device)], labels[kept])

    @property
    def sample(self) -> tuple[Tensor, Tensor]:
        """z ``(s, q)`` and y ``(s,)``."""
        if self._kept is None:
            raise InputError("expected features for the mixture, got an empty stream")
        z, y = self._kept
        return z, y.to(z.device)


def fit_stream(
    mixture: ClassMixture,
    chunks: Iterable[tuple[Tensor, Tensor]],
    rng: Rng,
    *,
    room: int = 65_536,
    iterations: int = 50,
) -> None:
    """Fit a mixture to features that arrive in chunks, in one pass.

    A reservoir of `room` rows in all keeps a uniform sample of each class; centroids and covariances are fitted to
    it, and the weights of the classes are those of the whole stream. Memory does not depend on the stream's length.
    A cluster of s sampled features misplaces its centroid by ``1/s`` of its own variance, which is what the mean
    squared distance grows by: under 1 % from 100 features per cluster on.

    Args:
        mixture: is fitted; a second fit starts from the centroids of the first.
        chunks: ``z (n, q)`` and labels ``y (n,)``, in any order.
        rng: key of the sample and of the starts.
        room: rows that are kept.
        iterations: of Lloyd's algorithm, at the most.

    Raises:
        InputError: no sample of a class.

    Example:
        >>> mixture = ClassMixture(2, 1, 3)
        >>> fit_stream(mixture, ((torch.randn(50, 3), torch.arange(50) % 2) for _ in range(4)), Rng(0), room=40)
        >>> [round(float(weight), 2) for weight in mixture.weights.flatten()]
        [0.5, 0.5]
    """
    reservoir = Reservoir(mixture.classes, room // mixture.classes, rng)
    for z, y in chunks:
        reservoir.add(z, y)
    z, y = reservoir.sample
    require_classes(reservoir.count)
    mixture.fit(z, y, rng, iterations=iterations)
    share = reservoir.count.to(mixture.weights) / reservoir.count.sum()
    mixture.reweigh(share)
