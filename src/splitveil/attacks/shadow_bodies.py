"""The shadow attack on an ensemble: a substitute head per subset of the bodies, and the one that fits best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.shadow import ANSWERS, Shadow
from splitveil.attacks.view import attacker_view
from splitveil.contracts import View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["ShadowBodies"]


@dataclass(frozen=True)
class ShadowBodies(Shadow):
    """The shadow attack through each body alone, through subsets, and through all; the best fitting one is inverted.

    The cloud holds all bodies and does not know which of them count. It trains a substitute head through every subset
    of at most `largest` bodies, and through all of them, and takes the one that the bodies work best with, by the loss
    of the substitute: labels and overheard releases decide, never the pictures that are scored. On a tail of one body
    it is the shadow attack.

    Args:
        largest: size of the subsets beside the whole; 1 tries each body alone.

    Raises:
        SpecError: a value out of range.

    Reference:
        Liu et al.: Ensembler, arXiv 2401.10859, section 4 (attacks through one body, through all, by brute force).
    """

    name: ClassVar[str] = "shadow_bodies"
    needs: ClassVar[frozenset[Grant]] = frozenset({"tail"})

    largest: int = 1

    def __post_init__(self) -> None:
        Shadow.__post_init__(self)
        if self.largest < 1:
            raise SpecError(f"expected largest >= 1, got {self.largest}")

    def _fit(self, view: View, rng: Rng) -> DecoderInverter:
        held = attacker_view(view)
        reply = held.tail(held.observed[:2])
        bodies = reply.shape[1] if reply.ndim == ANSWERS else 1
        tried = [
            (subset, *self._shadow(held, rng.child("shadow", *(subset or ("all",))), subset))
            for subset in self._subsets(bodies)
        ]
        losses = [history[-1]["task"] + self.match * history[-1]["match"] for _, _, history in tried]
        best = min(range(len(tried)), key=losses.__getitem__)
        inverter = self._invert(held, tried[best][1], rng)
        inverter.facts["shadow"] = tried[best][2]
        inverter.facts["bodies"] = {
            "chosen": list(tried[best][0] or range(bodies)),
            "losses": [
                {"bodies": list(subset or range(bodies)), "loss": loss}
                for (subset, _, _), loss in zip(tried, losses, strict=True)
            ],
        }
        return inverter

    def _subsets(self, bodies: int) -> Iterator[tuple[int, ...] | None]:
        """Of the bodies, the smallest first; None for all of them."""
        if bodies > 1:
            for size in range(1, min(self.largest, bodies - 1) + 1):
                yield from combinations(range(bodies), size)
        yield None
