"""One step of an optimiser that leaves every other gradient alone."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["take_step"]


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Move what the optimiser holds along the gradient of the loss; nothing else gets a gradient.

    So an attack that runs through somebody else's network, such as the cloud's, leaves no trace in it.

    Args:
        optimiser: of parameters that the loss depends on, all of them.
        loss: a scalar.

    Example:
        >>> w, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> take_step(torch.optim.SGD([w], lr=0.5), (w * other).sum())
        >>> w.tolist(), other.grad
        ([0.5], None)
    """
    moved = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
        parameter.grad = gradient
    optimiser.step()
