"""The processes that learn together, from where one of them stands."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["ALONE", "Alone", "Comm"]


class Comm(ABC):
    """A batch of n rows that w processes share: this one, of this `rank`, holds ``n_r`` of them from row `first` on.

    ```
    term that is a mean over samples     its mean over this process's rows: nothing to do
    statistic of the batch               comm.gather(z), then the statistic of all rows, on every process
    inner optimiser                      gradient of loss * comm.share, then comm.mean(gradient)
    ```

    The objective multiplies every process's loss by ``share = w n_r / n``, and gradients are averaged over the
    processes; both kinds of terms are then those of the whole batch, however unevenly its rows are dealt.
    """

    rank: int
    world_size: int
    first: int
    share: float

    @abstractmethod
    def gather(self, rows: Tensor) -> Tensor:
        """``(n_r, ...)`` of this process to ``(n, ...)`` of all, in the order of the batch, with gradient."""

    @abstractmethod
    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, without gradient."""


class Alone(Comm):
    """One process: all rows are here.

    Example:
        >>> ALONE.rank, ALONE.world_size, ALONE.first, ALONE.share
        (0, 1, 0, 1.0)
    """

    rank, world_size, first, share = 0, 1, 0, 1.0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows."""
        return rows

    def mean(self, value: Tensor) -> Tensor:
        """The value."""
        return value


ALONE = Alone()
"""What a penalty gets where nobody says otherwise."""
