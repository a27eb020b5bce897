"""The variational information bottleneck: releases near a standard normal."""

from __future__ import annotations

from splitveil.contracts import Penalty, PenaltyContext, Terms, Trace
from splitveil.errors import SpecError

__all__ = ["InformationBottleneck"]


class InformationBottleneck(Penalty):
    """``mean_i KL(N(mu_i, diag sigma_i^2) || N(0, I)) / q``, nats per dimension: an upper bound on I(x; r) / q.

    ``KL = 1/2 sum_j (sigma_j^2 + mu_j^2 - 1 - ln sigma_j^2)``. It is the bound of CEM with one Gaussian of variance 1
    in place of the mixture. The noise has to be able to learn for it to mean much; see the mechanism ``variational``.

    Reference:
        Alemi, Fischer, Dillon, Murphy: Deep Variational Information Bottleneck, ICLR 2017, eq. 17.
    """

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, a mean over samples."""
        if trace.channel is None:
            raise SpecError(
                "information_bottleneck expects a mechanism with Gaussian noise, got none: use vib(...), or add noise"
            )
        mean = trace.channel.mean.flatten(1)
        std = trace.channel.std.expand(trace.channel.mean.shape).flatten(1)
        nats = 0.5 * (std.square() + mean.square() - 1 - 2 * std.log())
        return {"information_bottleneck": nats.mean()}
