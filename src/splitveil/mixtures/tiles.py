"""Samples of one segment side by side in tiles of equal size, so that sums over segments are matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tiles", "segment_mean"]

_SMALLEST, _LARGEST = 8, 256
_TILES_PER_SEGMENT = 4  # so many, the padding of the last one stays below an eighth on average


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which sample stands where.

    ```
    segment 0: [ 4 7 9 | 1 2 · ]    segment 1: [ 0 3 5 | 6 8 10 ]        · padding, repeats a sample and is masked
    ```

    Args:
        rows: ``(t, b)`` int64, indices of samples.
        real: ``(t, b)`` bool, False where a row is padding.
        segment: ``(t,)`` int64, in ascending order.
        segments: how many there are.

    Example:
        >>> tiles = Tiles.of(torch.tensor([1, 0, 1, 1]), 2, size=2)
        >>> tiles.rows.tolist(), tiles.segment.tolist()
        ([[1, 1], [0, 2], [3, 3]], [0, 1, 1])
    """

    rows: Tensor
    real: Tensor
    segment: Tensor
    segments: int

    @classmethod
    def of(cls, segment: Tensor, segments: int, size: int | None = None) -> Tiles:
        """Tiles for samples whose segments are ``(n,)`` int64 in [0, segments)."""
        n = len(segment)
        count = torch.bincount(segment, minlength=segments)
        b = size or _size(n, int((count > 0).sum()))
        order = segment.argsort(stable=True)
        per_segment = -(-count // b)
        owner = torch.repeat_interleave(torch.arange(segments, device=segment.device), per_segment)
        first_tile, first_row = per_segment.cumsum(0) - per_segment, count.cumsum(0) - count
        place = torch.arange(len(owner), device=segment.device) - first_tile[owner]
        inside = place.unsqueeze(1) * b + torch.arange(b, device=segment.device)
        last = count[owner].unsqueeze(1) - 1
        rows = order[first_row[owner].unsqueeze(1) + inside.minimum(last)]
        return cls(rows, inside <= last, owner, segments)

    def __len__(self) -> int:
        return len(self.segment)

    def part(self, start: int, stop: int) -> Tiles:
        """The tiles from `start` to `stop`."""
        return Tiles(self.rows[start:stop], self.real[start:stop], self.segment[start:stop], self.segments)

    def chunks(self, tiles: int) -> Iterator[Tiles]:
        """Parts of up to so many tiles."""
        for start in range(0, len(self), max(1, tiles)):
            yield self.part(start, start + max(1, tiles))

    def groups(self, tiles: int) -> Iterator[Tiles]:
        """Parts that hold whole segments: as many as fit into so many tiles, one at least."""
        ends = torch.bincount(self.segment, minlength=self.segments).cumsum(0).cpu()
        start, whole = 0, int(ends[-1]) if len(ends) else 0
        while start < whole:
            fitting = int(torch.searchsorted(ends, start + max(1, tiles), right=True)) - 1
            stop = int(ends[fitting]) if fitting >= 0 else 0
            if stop <= start:  # a segment larger than that stays whole
                stop = int(ends[int(torch.searchsorted(ends, start, right=True))])
            yield self.part(start, stop)
            start = stop

    def gather(self, values: Tensor, less: Tensor | None = None) -> Tensor:
        """``values (n, q)`` as ``(t, b, q)``, a copy; less a row per segment ``(s, q)``; padding is 0."""
        found = values.index_select(0, self.rows.flatten()).view(*self.rows.shape, -1)
        if less is not None:
            found = found.sub_(less[self.segment].unsqueeze(1))
        return found.mul_(self.real.unsqueeze(2))

    def add(self, total: Tensor, values: Tensor) -> None:
        """Add one value per tile, ``(t, ...)``, to its segment's total, ``(s, ...)``, in place."""
        total.index_add_(0, self.segment, values)


def _size(n: int, occupied: int) -> int:
    share = max(1, n // max(1, occupied) // _TILES_PER_SEGMENT)
    return min(_LARGEST, max(_SMALLEST, 1 << (share - 1).bit_length()))


def segment_mean(values: Tensor, index: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Means over segments of a few values in any order; `Tiles` are for many.

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
