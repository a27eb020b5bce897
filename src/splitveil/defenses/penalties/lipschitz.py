"""How much each layer of the head stretches small changes of the picture (PATROL)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from splitveil.contracts import Penalty, PenaltyContext, Terms, Trace, positive
from splitveil.errors import SpecError
from splitveil.split_model import SplitModel, evaluating

__all__ = ["Lipschitz"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


class Lipschitz(Penalty):
    """``mean_i sum_l k_l``, ``k_l = |F_l(x + d) - F_l(x)| / |F_(l-1)(x + d) - F_(l-1)(x)|``, d ~ N(0, s^2 I).

    F_l is the output of the l-th convolution or linear layer of the head in evaluation mode, F_0 the picture: a head
    that stretches little tells similar pictures apart little. One more pass of two pictures each per step.

    Args:
        perturbation_std: s of d, pixel units.

    Reference:
        Ding et al.: PATROL, WACV 2024 (arXiv 2307.10981), eq. 3 and 4.
    """

    def __init__(self, *, perturbation_std: float = 0.05) -> None:
        super().__init__()
        self.perturbation_std = positive(perturbation_std, "perturbation_std")

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, a mean over samples."""
        x = trace.x.detach()
        drawn = torch.randn(x.shape, generator=context.rng.child("perturbation").generator()).to(x)
        change = self.perturbation_std * drawn
        head = cast(SplitModel, context.model).head
        with evaluating(head), _outputs(head) as found:
            head(torch.cat([x, x + change]))
        if not found:
            raise SpecError("lipschitz expects a head with convolutions or linear layers, got none")
        before = change.flatten(1).norm(dim=1)
        total = torch.zeros_like(before)
        for output in found:
            here, there = output.flatten(1).chunk(2) if output.shape[0] == 2 * len(x) else (None, None)
            if here is None or there is None:
                continue  # a layer of something else than the pictures, such as positions
            after = (there - here).square().sum(1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
            total = total + after / before.clamp_min(1e-12)
            before = after
        return {"lipschitz": total.mean()}


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of a module's layers, in the order in which they run."""
    found: list[Tensor] = []
    handles: list[RemovableHandle] = [
        layer.register_forward_hook(lambda _layer, _inputs, output: found.append(output))
        for layer in module.modules()
        if isinstance(layer, _LAYERS)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
