"""Running means of losses, kept on the device so that a step needs no host synchronisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from splitveil.training.objective import Losses
from splitveil.training.ranks import Ranks

__all__ = ["Totals"]


class Totals:
    """Means over samples of the loss, its terms and the score; a term counts the steps in which it was evaluated."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, losses: Losses, n: int) -> None:
        """Add a batch of n samples."""
        self.weights = dict(losses.weights)
        found = {"loss": losses.total, "score": losses.score.mean(), **losses.terms}
        sums = torch.stack([value.detach() for value in found.values()]).double() * n
        pairs = torch.stack([sums, torch.full_like(sums, n)], dim=1)
        for name, pair in zip(found, pairs, strict=True):
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def means(self) -> dict[str, float]:
        """The means so far."""
        if not self._sums:
            return {}
        pairs = torch.stack(list(self._sums.values()))
        return dict(zip(self._sums, (pairs[:, 0] / pairs[:, 1]).tolist(), strict=True))

    def unite(self, ranks: Ranks) -> None:
        """Add up what all processes have seen; the first keeps the sums, the others begin anew."""
        if ranks.world_size > 1:
            self.load(self._added(ranks), ranks)

    def of_all(self, ranks: Ranks) -> dict[str, float]:
        """The means over all processes, the same on each."""
        whole = Totals()
        whole.load(self._added(ranks))
        return whole.means()

    def _added(self, ranks: Ranks) -> dict[str, Tensor]:
        if ranks.world_size == 1:
            return self._sums
        names = sorted(self._sums)  # a process that was resumed holds them in another order
        return dict(zip(names, ranks.total(torch.stack([self._sums[name] for name in names])), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Tensors for a checkpoint."""
        return dict(self._sums)

    def load(self, state: Mapping[str, Tensor], ranks: Ranks | None = None) -> None:
        """The inverse of `state`, of which the first process holds all."""
        self._sums = {
            name: pair if ranks is None or ranks.leads else torch.zeros_like(pair) for name, pair in state.items()
        }
