"""The stream of the training set's features to which penalties refit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from splitveil.contracts import FeatureBatch, GaussianChannel, Task
from splitveil.data.loader import Pictures
from splitveil.modes import evaluating
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.ranks import Ranks, Share
from splitveil.training.tasks import Classification

__all__ = ["TrainingFeatures"]

_CHUNK = 128  # the maps of the first layers stay in the cache of a CPU; larger chunks take twice as long per picture


@dataclass(frozen=True, slots=True)
class TrainingFeatures:
    """Features of the shuffled, augmented training pictures under the current head, in evaluation mode.

    Args:
        model: whose features.
        pictures: the training pictures.
        classes: k.
        rng: key of the order and of the augmentation; the same key gives the same features.
        change: augmentation of a batch.
        task: tells the class of each picture from its target.
        ranks: each of them computes every w-th chunk, and all of them see all.
    """

    model: SplitModel
    pictures: Pictures
    classes: int
    rng: Rng
    change: Callable[[Tensor, torch.Generator], Tensor]
    task: Task = field(default_factory=Classification)
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def samples(self) -> int:
        """N, the size of the training set."""
        return len(self.pictures)

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Chunks in a shuffled order, every class early."""
        order = self.pictures.order(self.rng.child("order"))
        generator = self.rng.child("augment").generator()
        read = self.pictures.follow(torch.split(order, _CHUNK))
        while dealt := list(islice(read, self.ranks.world_size)):
            chunks = [(self.change(x, generator), y) for x, y in dealt]
            for (x, y), z in zip(chunks, self._features([x for x, _ in chunks]), strict=True):
                yield FeatureBatch(z, self.task.group(x, y), self._channel(z), x)

    def _features(self, chunks: list[Tensor]) -> tuple[Tensor, ...]:
        """z of each chunk, one per process at the most."""
        counts = [len(chunk) for chunk in chunks]
        spare = self.ranks.world_size - len(chunks)
        mine = chunks[self.ranks.rank] if self.ranks.rank < len(chunks) else chunks[0][:0]
        with evaluating(self.model), torch.no_grad():
            z: Tensor = self.model.head(mine if len(mine) else chunks[0])[: len(mine)]
            if self.ranks.world_size > 1:
                z = Share(self.ranks.rank, (*counts, *[0] * spare)).gather(z)
        return torch.split(z, counts)

    def _channel(self, z: Tensor) -> GaussianChannel | None:
        with evaluating(self.model), torch.no_grad():
            return self.model.channel(z)
