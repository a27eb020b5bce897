"""How much each layer of the head stretches small changes of the picture (PATROL)."""

from __future__ import annotations

from typing import cast

import torch

from splitveil.contracts import NoiseSpec, Penalty, PenaltyContext, Terms, Trace, positive
from splitveil.errors import SpecError
from splitveil.modes import evaluating
from splitveil.nets.watching import layer_outputs
from splitveil.noise import SeededNoise, to_device
from splitveil.split_model import SplitModel

__all__ = ["Lipschitz"]


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
        spec = NoiseSpec("perturbation", tuple(x.shape[1:]), "standard_normal")
        drawn = SeededNoise(context.rng, context.comm.first).draw(spec, len(x))
        change = self.perturbation_std * to_device(drawn, x.device).to(x.dtype)
        head = cast(SplitModel, context.model).head
        with evaluating(head), layer_outputs(head) as found:
            head(torch.cat([x, x + change]))
        if not found:
            raise SpecError("lipschitz expects a head with convolutions or linear layers, got none")
        before = change.flatten(1).norm(dim=1)
        total = torch.zeros_like(before)
        for _, output in found:
            if len(output) != 2 * len(x):
                continue  # a layer of something else than the pictures, such as positions
            here, there = output.flatten(1).chunk(2)
            after = (there - here).square().sum(1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
            total = total + after / before.clamp_min(1e-12)
            before = after
        return {"lipschitz": total.mean()}
