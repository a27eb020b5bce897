"""Pictures that do not fit on the device: read batch by batch, by threads that run ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from splitveil.data.loader import Pictures, Sampling
from splitveil.data.rows import Rows, StoredRows, look_up
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError

__all__ = ["StreamedPictures", "hold"]

_THREADS, _AHEAD = 4, 12
_SHARE_OF_GPU = 0.5
"""A table that would fill more of the free memory of a GPU stays with the host."""

_Read = tuple[Tensor, Tensor | None]


def hold(
    table: ImageTable,
    device: torch.device | str = "cpu",
    *,
    targets: Rows | None = None,
    sampling: Sampling = "uniform",
) -> Pictures:
    """The pictures of a table for a device: moved there if they are in memory and fit, else read batch by batch.

    Either way, the same indices give the same bits.

    Args:
        table: the pictures.
        device: where they are needed.
        targets: see `Pictures`.
        sampling: see `Pictures`.

    Example:
        >>> table = ImageTable(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> type(hold(table)).__name__
        'Pictures'
    """
    kind = Pictures if _fits(table.images, torch.device(device)) else StreamedPictures
    return kind(table, device, targets=targets, sampling=sampling)


def _fits(images: Rows, device: torch.device) -> bool:
    if isinstance(images, StoredRows):
        return False
    return device.type != "cuda" or images.nbytes <= _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]


class StreamedPictures(Pictures):
    """`Pictures` whose bytes stay in a file, or in the memory of the host; labels are on the device."""

    def _keep(self, images: Rows) -> Rows:
        return images

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """As that of `Pictures`; these pictures alone are read."""
        return self._finish(indices, self._read(indices))

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As that of `Pictures`, read ahead."""
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        yield from self.follow(torch.split(torch.arange(len(self)), batch_size))

    def follow(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """As that of `Pictures`; threads read a dozen batches ahead of the one that is asked for."""
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")
        waiting: deque[tuple[Tensor, Future[_Read]]] = deque()
        try:
            for indices in chunks:
                waiting.append((indices, pool.submit(self._read, indices)))
                if len(waiting) > _AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _next(self, waiting: deque[tuple[Tensor, Future[_Read]]]) -> tuple[Tensor, Tensor]:
        indices, future = waiting.popleft()
        return self._finish(indices, future.result())

    def _read(self, indices: Tensor) -> _Read:
        """The bytes of these pictures, and their targets where they lie in a file too; what a thread does."""
        images = look_up(self.images, indices)
        targets = None if isinstance(self.targets, Tensor) else self.targets[indices]
        if self.device.type != "cuda":
            return images, targets
        return images.pin_memory(), None if targets is None else targets.pin_memory()

    def _finish(self, indices: Tensor, read: _Read) -> tuple[Tensor, Tensor]:
        """Onto the device, where the bytes become floats."""
        images, targets = read
        y = look_up(self.targets, indices) if targets is None else targets.to(self.device, non_blocking=True)
        return images.to(self.device, non_blocking=True).to(torch.float32).div_(255.0), y
