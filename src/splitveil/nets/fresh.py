"""Fresh weights for a module, whatever it is made of."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

__all__ = ["fresh_copy", "renew"]

M = TypeVar("M", bound=nn.Module)

_STD = 0.02  # of a parameter that no layer knows how to begin


def renew(module: M) -> M:
    """Draw all that a module has learned anew, in place, from torch's generator.

    A parameter outside the standard layers (a class token, a position embedding) becomes normal noise of standard
    deviation 0.02; a buffer without a reset of its own (the normalisation of pictures) counts as architecture and is
    kept.

    Args:
        module: changed, and returned.

    Example:
        >>> import torch
        >>> module = nn.Linear(2, 2)
        >>> module.token = nn.Parameter(torch.full((3,), 7.0))
        >>> bool(renew(module).token.abs().max() < 1)
        True
    """
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            nn.init.normal_(parameter, std=_STD)
        reset = getattr(child, "reset_parameters", None)
        if callable(reset):
            reset()
    return module


def fresh_copy(module: M) -> M:
    """A module of the same classes and sizes whose learned values are drawn anew, see `renew`."""
    return renew(deepcopy(module))
