"""The power of learned noise (Shredder)."""

from __future__ import annotations

from splitveil.contracts import Penalty, PenaltyContext, Terms, Trace
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.errors import SpecError

__all__ = ["NoisePower"]


class NoisePower(Penalty):
    """``-ln mean_j s_j^2`` of the mechanism's learned noise: as much noise as the task bears.

    Its gradient goes into the noise alone, not into the head: whoever adds it lets the optimiser move the mechanism.

    Reference:
        Mireshghallah et al.: Shredder, ASPLOS 2020, eq. 3.
    """

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, which falls as the noise grows."""
        powers = [module.std.square() for module in context.model.modules() if isinstance(module, LearnedNoise)]
        if len(powers) != 1:
            raise SpecError(f"noise_power expects one mechanism 'learned_noise', got {len(powers)}: use shredder(...)")
        return {"noise_power": -powers[0].mean().log()}
