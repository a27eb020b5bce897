"""Where a sparse release is not zero: the values may hide, the positions still tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from splitveil.attacks.fitting import DecoderAttack
from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.view import attacker_view
from splitveil.contracts import View
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Support"]


@dataclass(frozen=True)
class Support(DecoderAttack):
    """The decoder attack on the positions of a release alone: ``g(1[r != 0])``, 0 as the codec sends it.

    Beside the decoder it says how much of what leaks is in the choice of the values that a sparse mechanism, such as
    top-k, lets through. A release without zeros has nothing to say, and the mean picture comes out.

    Raises:
        SpecError: a value out of range.
    """

    name: ClassVar[str] = "support"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})

    def _fit(self, view: View, rng: Rng) -> DecoderInverter:
        held = attacker_view(view)
        reads = "support_of_levels" if bool(held.zero.any()) else "support"
        return self._train(held, self._plan(held, rng), rng, reads=reads)
