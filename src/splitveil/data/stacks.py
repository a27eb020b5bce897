"""Where decoded pictures pile up, one after the other: a tensor, or a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.cache import check_room
from splitveil.data.reading import memory_bytes
from splitveil.errors import InputError

__all__ = ["FileStack", "MemoryStack"]

Pixels = NDArray[np.uint8]

_COPIED = 4096  # rows at a time


class _Stack(ABC):
    """Pictures of one size, grey until the first in colour comes.

    Args:
        total: the most pictures that will come.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.shape: tuple[int, ...] = ()
        self._first = ""

    @property
    def area(self) -> int:
        """Pixels of a picture, 0 before the first."""
        return self.shape[1] * self.shape[2] if self.shape else 0

    def add(self, name: str, pixels: Pixels) -> None:
        """Put ``(h, w)`` or ``(h, w, 3)`` on top.

        Raises:
            InputError: another size than that of the pictures before.
        """
        height, width = pixels.shape[:2]
        if not self.shape:
            self._first, self.shape = name, (1 if pixels.ndim == 2 else 3, height, width)
            self._open()
        if (height, width) != self.shape[1:]:
            raise InputError(
                f"expected pictures of one size, got {self.shape[2]}x{self.shape[1]} in {self._first} "
                f"and {width}x{height} in {name}: resize them to one size first, or pass size"
            )
        if pixels.ndim == 3 and self.shape[0] == 1:
            self.shape = (3, height, width)
            self._colour()
        self._put(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        self.done += 1

    @abstractmethod
    def _open(self) -> None:
        """Make room for pictures of `shape`."""

    @abstractmethod
    def _colour(self) -> None:
        """Give the grey pictures so far three equal channels."""

    @abstractmethod
    def _put(self, picture: Pixels) -> None:
        """Add ``(c, h, w)``, c 1 or that of `shape`."""


class MemoryStack(_Stack):
    """A tensor."""

    def _open(self) -> None:
        self._buffer = self._allocate()

    def _colour(self) -> None:
        grey, self._buffer = self._buffer, self._allocate()
        self._buffer[: self.done] = grey[: self.done]

    def _put(self, picture: Pixels) -> None:
        self._buffer[self.done] = picture

    def _allocate(self) -> NDArray[Any]:
        needed = self.total * int(np.prod(self.shape))
        if needed > memory_bytes():
            raise InputError(
                f"expected pictures that fit into the {memory_bytes() / 2**30:.0f} GiB of memory when decoded, got "
                f"{self.total} of {self.shape[2]}x{self.shape[1]} or {needed / 2**30:.1f} GiB: stream them, resize "
                "them, or use fewer"
            )
        return np.empty((self.total, *self.shape), dtype=np.uint8)

    def tensor(self) -> Tensor:
        """``(n, c, h, w)``."""
        if not self.done:
            raise no_pictures()
        return torch.from_numpy(self._buffer[: self.done])


class FileStack(_Stack):
    """A file of rows, to be read as `StoredRows`.

    Args:
        path: of the file, which is not there yet.
        total: see above.

    Raises:
        OutputError: the disk has too little room.
    """

    def __init__(self, path: Path, total: int) -> None:
        super().__init__(total)
        self.path = path
        self._file: BinaryIO = path.open("wb+")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None and not self.done:
            raise no_pictures()

    def _open(self) -> None:
        # grey pictures may have to be copied once, when a first one in colour comes
        check_room(self.total * 3 * self.area)

    def _colour(self) -> None:
        other = self.path.with_suffix(".colour")
        target = other.open("wb+")
        self._file.seek(0)
        while grey := self._file.read(_COPIED * self.area):
            planes = np.frombuffer(grey, dtype=np.uint8).reshape(-1, 1, self.area)
            target.write(np.repeat(planes, 3, axis=1).tobytes())
        self._file.close()
        self._file = target
        other.replace(self.path)

    def _put(self, picture: Pixels) -> None:
        self._file.write(np.broadcast_to(picture, self.shape).tobytes())


def no_pictures() -> InputError:
    """What to say where nothing has come."""
    return InputError("expected at least one picture, got none: check the path and the file")
