"""Pictures on the device, as bytes, and in which order they are learned from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from splitveil.data.tables import ImageTable
from splitveil.errors import InputError
from splitveil.rng import Rng

__all__ = ["Pictures", "steps"]


class Pictures:
    """A table that is moved to a device once, as bytes, and read as floats.

    Args:
        table: the pictures.
        device: where they are kept.

    Example:
        >>> table = ImageTable(torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(4))
        >>> x, y = Pictures(table, "cpu").get(torch.tensor([3, 1]))
        >>> float(x.max()), y.tolist()
        (1.0, [3, 1])
    """

    def __init__(self, table: ImageTable, device: torch.device | str = "cpu") -> None:
        self.images = table.images.to(device)
        self.labels = table.labels.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self.labels.device

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``(m, c, h, w)`` float32 in [0, 1] and labels ``(m,)`` at these indices, from any device."""
        indices = indices.to(self.device)
        return _to_float(self.images[indices]), self.labels[indices]

    def take(self, indices: Tensor) -> Pictures:
        """The pictures at these indices, ``(m,)`` int64, as a table of its own on the same device."""
        places = indices.to(self.device)
        return Pictures(ImageTable(self.images[places], self.labels[places]), self.device)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All pictures in order, the last batch as small as it comes."""
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield _to_float(self.images[start:stop]), self.labels[start:stop]

    def follow(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What `get` gives for each of these indices, one after the other; whoever reads from a disk reads ahead."""
        return map(self.get, chunks)

    def order(self, rng: Rng) -> Tensor:
        """A random order ``(n,)`` int64 on the CPU, a function of the key alone: a resumed epoch finds its place."""
        return torch.randperm(len(self), generator=rng.generator())


def steps(n: int, batch_size: int) -> int:
    """How many batches an epoch over n pictures has; a last batch of one is left out, for batch norm needs two.

    Raises:
        InputError: fewer than two pictures, or batches of fewer than two.

    Example:
        >>> steps(9, 4), steps(10, 4)
        (2, 3)
    """
    if n < 2 or batch_size < 2:
        raise InputError(f"expected at least two pictures and batches of at least two, got {n} and {batch_size}")
    return n // batch_size + (n % batch_size >= 2)


def _to_float(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255.0)
