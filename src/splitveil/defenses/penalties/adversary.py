"""An inner adversary: a network with an optimiser of its own, both part of a penalty's state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from splitveil.contracts import ALONE, Comm
from splitveil.precision import half_precision
from splitveil.stepping import take_step

__all__ = ["Adversary"]


class Adversary(nn.Module):
    """A network that learns beside the model and is frozen where the model learns from it.

    Its weights are frozen except within `learn`; the moments of Adam are saved and resumed with them. It computes in
    bfloat16 where the device does, and answers in the precision that it is asked in.

    Args:
        network: the adversary.
        lr: of Adam.
    """

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self._optimiser = torch.optim.Adam(network.parameters(), lr=lr, fused=True)

    def learn(self, loss: Callable[[nn.Module], Tensor], comm: Comm = ALONE) -> Tensor:
        """One step along a loss of this adversary in training mode; returns the loss, without gradient.

        The gradient is that of all rows of the batch, wherever they are.
        """
        self.network.requires_grad_(True).train()
        try:
            with torch.enable_grad():
                value = loss(self)
                take_step(self._optimiser, value, comm)
        finally:
            self.network.requires_grad_(False).eval()
        return value.detach()

    def forward(self, r: Tensor) -> Tensor:
        """The network's answer; outside `learn` in evaluation mode, with gradient to its input alone."""
        with half_precision(r.device):
            answer: Tensor = self.network(r)
        return answer.to(r)

    def get_extra_state(self) -> Tensor:
        """Steps and both moments of Adam in one row, zeros before the first step."""
        state = self._optimiser.state
        steps = [state[p]["step"] for p in self._moved if p in state]
        parts = [steps[0].reshape(1).float().cpu() if steps else torch.zeros(1)]
        for name in ("exp_avg", "exp_avg_sq"):
            parts += [
                (state[p][name] if p in state else torch.zeros_like(p)).detach().flatten().float().cpu()
                for p in self._moved
            ]
        return torch.cat(parts)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self._optimiser.state.clear()
        steps, rest = state[:1], state[1:]
        if float(steps) == 0:
            return
        sizes = [parameter.numel() for parameter in self._moved]
        first, second = (torch.split(half, sizes) for half in rest.chunk(2))
        for parameter, mean, square in zip(self._moved, first, second, strict=True):
            self._optimiser.state[parameter] = {
                "step": steps[0].to(parameter.device, copy=True),
                "exp_avg": torch.empty_like(parameter).copy_(mean.reshape(parameter.shape)),
                "exp_avg_sq": torch.empty_like(parameter).copy_(square.reshape(parameter.shape)),
            }

    @property
    def _moved(self) -> list[nn.Parameter]:
        return list(self.network.parameters())
