"""Scores of predicted labels, one per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.errors import InputError

__all__ = ["accuracy"]


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Whether the largest output is the target's; an output with a NaN predicts nothing and counts as wrong.

    Args:
        output: ``(n, k)`` scores of the classes.
        target: ``(n,)`` class indices, an integer type.

    Returns:
        ``(n,)`` float32, 0 or 1.

    Raises:
        InputError: the shapes do not belong together, or the targets are not integers.

    Example:
        >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor([1., 0.])
    """
    if output.ndim != 2 or target.ndim != 1 or len(output) != len(target):
        raise InputError(
            f"expected output (n, k) and target (n,), got {tuple(output.shape)} and {tuple(target.shape)}: "
            "pass one row of class scores and one class index per sample"
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise InputError(f"expected integer class indices as target, got {target.dtype}: pass target.long()")
    right = (output.argmax(dim=1) == target) & ~output.isnan().any(dim=1)
    return right.to(torch.float32)
