"""Rows of a table that stay in a file: read where they are asked for, so that memory does not grow with the table."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.reading import MEMORY_SHARE, memory_bytes
from splitveil.errors import InputError
from splitveil.noise import to_device

__all__ = ["Rows", "StoredRows", "channel_statistics", "chunks", "in_memory", "join_rows", "look_up", "take_rows"]

_CHUNK_BYTES = 8 << 20


class StoredRows:
    """``(n, *row)`` uint8 in a file of nothing but rows, indexed like a tensor.

    It reads; it does not map: what is held in memory are the rows of one request. Reads release the interpreter, so
    that several threads can wait for a disk at once.

    Args:
        file: n rows, one after the other.
        row: shape of one.
        places: ``(n,)`` int64, which rows of the file; None for all in order.

    Raises:
        InputError: the file is not a whole number of rows.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rows"
        >>> written = file.write_bytes(bytes(range(12)))
        >>> StoredRows(file, (1, 2, 2))[torch.tensor([2, 0])].flatten().tolist()
        [8, 9, 10, 11, 0, 1, 2, 3]
    """

    dtype = torch.uint8

    def __init__(self, file: Path, row: tuple[int, ...], places: NDArray[np.int64] | None = None) -> None:
        self.file, self.row, self._size = file, row, int(np.prod(row))
        length = file.stat().st_size
        if self._size < 1 or length % self._size:
            raise _damaged(file)
        self.places = np.arange(length // self._size) if places is None else places
        self._handle = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        if hasattr(os, "posix_fadvise"):  # reading ahead of a random row reads what nobody asked for
            os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_RANDOM)

    def __reduce__(self) -> tuple[type[StoredRows], tuple[Path, tuple[int, ...], NDArray[np.int64]]]:
        """Another process opens the file itself."""
        return StoredRows, (self.file, self.row, self.places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, *row)``."""
        return len(self), *self.row

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 1 + len(self.row)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self._size

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows of a slice or of indices ``(m,)`` int64, read into memory."""
        places = self.places[index if isinstance(index, slice) else index.cpu().numpy()]
        buffer = np.empty((len(places), self._size), dtype=np.uint8)
        # neighbours in the file are read in one go
        edges = [*np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist(), len(places)]
        for start, stop in pairwise(edges):
            self._read(buffer[start:stop], int(places[start]))
        return torch.from_numpy(buffer).reshape(len(places), *self.row)

    def _read(self, into: NDArray[np.uint8], place: int) -> None:
        view, offset = memoryview(into.data).cast("B"), place * self._size
        while view:
            got = os.preadv(self._handle, [view], offset)
            if got == 0:
                raise _damaged(self.file)
            view, offset = view[got:], offset + got

    def take(self, indices: Tensor) -> StoredRows:
        """The rows at these indices, ``(m,)`` int64, as a table of its own over the same file."""
        return StoredRows(self.file, self.row, self.places[indices.cpu().numpy()])


def _damaged(file: Path) -> InputError:
    return InputError(f"expected whole rows in '{file}', got a file that was cut off: delete its folder and run again")


Rows = Tensor | StoredRows
"""A table's rows, in memory or in a file; indexed the same way."""


def look_up(rows: Rows, indices: Tensor) -> Tensor:
    """Rows at indices ``(m,)`` from any device; those in memory stay where they are."""
    if not isinstance(rows, Tensor):
        return rows[indices]
    return rows[indices if indices.device == rows.device else to_device(indices, rows.device)]


def take_rows(rows: Rows, indices: Tensor) -> Rows:
    """The rows at indices ``(m,)``: a copy of those in memory, a selection of those in a file."""
    return look_up(rows, indices) if isinstance(rows, Tensor) else rows.take(indices)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of one table after those of another; those in a file must lie in the same.

    Raises:
        InputError: in different files.
    """
    stored = [part for part in parts if isinstance(part, StoredRows)]
    if not stored:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    if len(stored) < len(parts) or len({part.file for part in stored}) > 1:
        raise InputError("expected pictures of one source to join, got pictures of several: load them together")
    return StoredRows(stored[0].file, stored[0].row, np.concatenate([part.places for part in stored]))


def in_memory(rows: Rows, most: int | None = None) -> Tensor:
    """All rows, or of those in a file at most so many, spread evenly over them.

    Raises:
        InputError: all of them would take more than the share of memory that a table may.
    """
    if isinstance(rows, Tensor):
        return rows
    if most is not None and most < len(rows):
        return rows[torch.linspace(0, len(rows) - 1, most).round().long()]
    if rows.nbytes > MEMORY_SHARE * memory_bytes():
        raise InputError(
            f"expected pictures that fit into memory here, got {len(rows)} of {rows.nbytes / 2**30:.1f} GiB: "
            "use fewer, by limit"
        )
    return rows[:]


def chunks(rows: Rows) -> Iterator[Tensor]:
    """All rows in order, a few megabytes at a time.

    Example:
        >>> sum(len(chunk) for chunk in chunks(torch.zeros(10, 3, 4, 4, dtype=torch.uint8)))
        10
    """
    step = max(1, _CHUNK_BYTES * len(rows) // max(1, rows.nbytes))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def channel_statistics(images: Rows) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of bytes scaled to [0, 1], from exact sums: no chunk size changes them.

    Example:
        >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))[0]
        [0.5]
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images):
        for channel, pixels in enumerate(chunk.cpu().transpose(0, 1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    n = counts.sum(1, keepdim=True)
    mean = (counts * levels).sum(1, keepdim=True) / n
    variance = (counts * (levels - mean).square()).sum(1, keepdim=True) / (n - 1).clamp_min(1)
    return mean.flatten().tolist(), variance.sqrt().flatten().tolist()
