"""Pictures on the device, as bytes, and in which order they are learned from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from splitveil.data.rows import Rows, look_up, take_rows
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError
from splitveil.rng import Rng

__all__ = ["Pictures", "Sampling", "steps"]

Sampling = Literal["uniform", "balanced"]
"""How often an epoch draws a picture: each once, or each class as often as the others."""


class Pictures:
    """A table that is moved to a device once, as bytes, and read as floats.

    Args:
        table: the pictures.
        device: where they are kept.
        targets: what is to be learned of each, ``(n, ...)``; the labels by default.
        sampling: ``uniform`` or ``balanced``, of `order`.

    Example:
        >>> table = ImageTable(torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(4))
        >>> x, y = Pictures(table, "cpu").get(torch.tensor([3, 1]))
        >>> float(x.max()), y.tolist()
        (1.0, [3, 1])
    """

    def __init__(
        self,
        table: ImageTable,
        device: torch.device | str = "cpu",
        *,
        targets: Rows | None = None,
        sampling: Sampling = "uniform",
    ) -> None:
        self.labels = table.labels.to(device)
        self.images = self._keep(table.images)
        self.targets: Rows = self.labels if targets is None else _moved(targets, self.device)
        self.sampling = sampling

    def _keep(self, images: Rows) -> Rows:
        """Where the bytes of the pictures stay."""
        return _moved(images, self.device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where the pictures are needed."""
        return self.labels.device

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``(m, c, h, w)`` float32 in [0, 1] and targets ``(m, ...)`` at these indices, from any device."""
        return _to_float(look_up(self.images, indices)), look_up(self.targets, indices)

    def take(self, indices: Tensor) -> Pictures:
        """The pictures at these indices, ``(m,)`` int64, as a table of its own on the same device."""
        table = ImageTable(take_rows(self.images, indices), look_up(self.labels, indices))
        targets = None if self.targets is self.labels else take_rows(self.targets, indices)
        return type(self)(table, self.device, targets=targets, sampling=self.sampling)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All pictures in order, the last batch as small as it comes."""
        if batch_size < 1:
            raise InputError(f"expected batch_size >= 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield _to_float(self.images[start:stop]), self.targets[start:stop]

    def follow(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What `get` gives for each of these indices, one after the other; whoever reads from a disk reads ahead."""
        return map(self.get, chunks)

    def order(self, rng: Rng) -> Tensor:
        """A random order ``(n,)`` int64 on the CPU, a function of the key alone: a resumed epoch finds its place."""
        generator = rng.generator()
        if self.sampling == "balanced":
            return _balanced(self.labels.cpu(), generator)
        return torch.randperm(len(self), generator=generator)


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


def _balanced(labels: Tensor, generator: torch.Generator) -> Tensor:
    """As many draws as pictures, the same number of each class to one: small classes come round several times."""
    classes = torch.unique(labels)
    shares = torch.full((len(classes),), len(labels) // len(classes))
    shares[torch.randperm(len(classes), generator=generator)[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, share in zip(classes.tolist(), shares.tolist(), strict=True):
        members = torch.nonzero(labels == label).flatten()
        rounds = [torch.randperm(len(members), generator=generator) for _ in range(-(-share // len(members)))]
        drawn += [members[torch.cat(rounds)[:share]]] if rounds else []
    return torch.cat(drawn)[torch.randperm(len(labels), generator=generator)]


def _moved(rows: Rows, device: torch.device) -> Rows:
    return rows.to(device) if isinstance(rows, Tensor) else rows


def _to_float(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255.0)
