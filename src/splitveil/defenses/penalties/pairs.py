"""What statistics of pairs of rows share."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.errors import InputError

__all__ = ["FEWEST", "check_samples", "doubly_centred", "squared_distances"]

FEWEST = 2
"""Rows that make a pair."""


def check_samples(a: Tensor, b: Tensor) -> None:
    """Raise `InputError` unless both have as many rows, two at least."""
    if len(a) != len(b) or len(a) < FEWEST:
        raise InputError(f"expected two samples of the same n >= {FEWEST} rows, got {len(a)} and {len(b)}")


def squared_distances(rows: Tensor) -> Tensor:
    """``(n, p)`` to ``(n, n)``, by inner products around the mean row, not below 0.

    In float32 at least, whatever autocast says: a distance is a small difference of products that are not.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        rows = rows - rows.mean(0, keepdim=True)
        inner = rows @ rows.T
        norms = inner.diagonal()
        return (norms[:, None] + norms[None, :] - 2 * inner).clamp_min(0.0)


def doubly_centred(matrix: Tensor) -> Tensor:
    """``H M H``: rows, columns and all of mean zero."""
    return matrix - matrix.mean(0, keepdim=True) - matrix.mean(1, keepdim=True) + matrix.mean()
