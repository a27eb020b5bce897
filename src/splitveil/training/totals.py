"""Running means of losses, kept on the device so that a step needs no host synchronisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from splitveil.training.objective import Losses

__all__ = ["Totals"]


class Totals:
    """Means over samples of the loss, its terms and the score; a term counts the steps in which it was evaluated."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, losses: Losses, n: int) -> None:
        """Add a batch of n samples."""
        self.weights = dict(losses.weights)
        for name, value in {"loss": losses.total, "score": losses.score.mean(), **losses.terms}.items():
            pair = torch.stack([value.detach().double() * n, torch.full_like(value, n, dtype=torch.double)])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(pair[0] / pair[1]) for name, pair in self._sums.items()}

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        return dict(self._sums)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self._sums = dict(state)
