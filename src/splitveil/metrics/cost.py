"""What a part of a network costs the device that runs it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from splitveil.modes import device_of, evaluating

__all__ = ["count_multiply_adds", "count_parameters", "multiply_adds"]


def multiply_adds(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-add operations of one sample: convolutions, linear layers and attention; the rest is not counted.

    Args:
        module: run once in evaluation mode, on its device; its modes stay as they were.
        input_shape: of one sample.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 16, 3, padding=1), (3, 32, 32)) == 3 * 16 * 9 * 32 * 32
        True
    """
    with evaluating(module):
        return count_multiply_adds(module, torch.zeros(1, *input_shape, device=device_of(module)))


def count_multiply_adds(run: Callable[..., object], *inputs: Tensor) -> int:
    """Multiply-adds of one call, without gradient."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*inputs)
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations


def count_parameters(*modules: nn.Module) -> int:
    """Parameters of all these.

    Example:
        >>> count_parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
