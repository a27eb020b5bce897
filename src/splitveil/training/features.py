"""The stream of the training set's features to which penalties refit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitveil.contracts import FeatureBatch, Task
from splitveil.data.loader import Pictures
from splitveil.modes import evaluating
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
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
    """

    model: SplitModel
    pictures: Pictures
    classes: int
    rng: Rng
    change: Callable[[Tensor, torch.Generator], Tensor]
    task: Task = field(default_factory=Classification)

    @property
    def samples(self) -> int:
        """N, the size of the training set."""
        return len(self.pictures)

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Chunks in a shuffled order, every class early."""
        order = self.pictures.order(self.rng.child("order"))
        generator = self.rng.child("augment").generator()
        for x, y in self.pictures.follow(torch.split(order, _CHUNK)):
            x = self.change(x, generator)
            with evaluating(self.model), torch.no_grad():
                z, channel = self.model.features(x)
            yield FeatureBatch(z, self.task.groups(self.task.target(x, y)), channel, x)
