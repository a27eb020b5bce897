"""Pictures that come with a release of each: what is left of an encoder that cannot be asked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from splitveil.data.loader import Pictures
from splitveil.data.rows import take_rows
from splitveil.data.splits import picture_digests
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng

__all__ = ["PairedPictures"]


class PairedPictures(Pictures):
    """A table of pictures with one release of each.

    Args:
        table: the pictures; labels of 0 where nothing is known of them.
        releases: ``(n, *r)``, float32, one row per picture.
        device: where both are kept.

    Raises:
        InputError: not one release per picture.

    Example:
        >>> table = ImageTable(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> PairedPictures(table, torch.arange(8.0).reshape(4, 2)).release_of(torch.tensor([3, 0]))
        tensor([[6., 7.],
                [0., 1.]])
    """

    def __init__(self, table: ImageTable, releases: Tensor, device: torch.device | str = "cpu") -> None:
        if releases.ndim < 2 or len(releases) != len(table) or releases.dtype != torch.float32:
            raise InputError(
                f"expected float32 releases ({len(table)}, *r), got {releases.dtype} {tuple(releases.shape)}: "
                "pass one release per picture"
            )
        super().__init__(table, device)
        self.releases = releases.to(device)

    def release_of(self, indices: Tensor) -> Tensor:
        """The releases ``(m, *r)`` of the pictures at these indices, from any device."""
        return self.releases[indices.to(self.device)]

    def take(self, indices: Tensor) -> PairedPictures:
        """The pairs at these indices, ``(m,)`` int64, as a copy."""
        places = indices.to(self.device)
        table = ImageTable(take_rows(self.images, places), self.labels[places])
        return PairedPictures(table, self.releases[places], self.device)

    def split(self, test_share: float, rng: Rng) -> tuple[PairedPictures, PairedPictures]:
        """The attacker's pairs and those that it is scored on; copies of a picture stay on one side.

        Args:
            test_share: of the pictures, in (0, 1).
            rng: decides which.

        Raises:
            SpecError: a share out of range.
            InputError: fewer than two different pictures.

        Example:
            >>> table = ImageTable(torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1), torch.arange(40))
            >>> known, test = PairedPictures(table, torch.zeros(40, 2)).split(0.25, Rng(0))
            >>> len(known), len(test)
            (30, 10)
        """
        if not 0 < test_share < 1:
            raise SpecError(f"expected test_share between 0 and 1, got {test_share}")
        _, group = np.unique(picture_digests(ImageTable(self.images, self.labels)), return_inverse=True)
        sizes = np.bincount(group)
        if len(sizes) < 2:
            raise InputError(f"expected at least two different pictures to split, got {len(sizes)}: add some")
        order = rng.numpy().permutation(len(sizes))
        before = np.cumsum(sizes[order]) - sizes[order]
        chosen = np.zeros(len(sizes), dtype=bool)
        chosen[order] = before < round(test_share * len(self))
        chosen[order[0]], chosen[order[-1]] = True, False  # neither side is empty
        test = torch.from_numpy(chosen[group])
        return self.take(torch.nonzero(~test).flatten()), self.take(torch.nonzero(test).flatten())
