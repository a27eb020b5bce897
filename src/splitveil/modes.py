"""Where a module is, and evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["device_of", "evaluating"]


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter; the CPU where it has none.

    Example:
        >>> device_of(nn.ReLU())
        device(type='cpu')
    """
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the modes of before after."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
