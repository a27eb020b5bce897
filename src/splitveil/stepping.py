"""One step of an optimiser that leaves every other gradient alone."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.contracts import ALONE, Comm

__all__ = ["take_step"]


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor, comm: Comm = ALONE) -> None:
    """Move what the optimiser holds along the gradient of the loss; nothing else gets a gradient.

    So an attack that runs through somebody else's network, such as the cloud's, leaves no trace in it.

    Args:
        optimiser: of parameters that the loss depends on, all of them.
        loss: a scalar, a mean over the rows that are here.
        comm: the processes that hold the other rows; all take the same step.

    Example:
        >>> w, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        >>> take_step(torch.optim.SGD([w], lr=0.5), (w * other).sum())
        >>> w.tolist(), other.grad
        ([0.5], None)
    """
    moved = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    gradients = torch.autograd.grad(loss * comm.share if comm.world_size > 1 else loss, moved)
    if comm.world_size > 1:
        gradients = _averaged(gradients, comm)
    for parameter, gradient in zip(moved, gradients, strict=True):
        parameter.grad = _laid_out(gradient, parameter)
    optimiser.step()


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """As the parameter lies in memory: fused kernels walk through both side by side, and check nothing."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _averaged(gradients: tuple[Tensor, ...], comm: Comm) -> tuple[Tensor, ...]:
    """The mean over the processes, in one message."""
    mean = comm.mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(mean, [gradient.numel() for gradient in gradients])
    return tuple(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))
