"""The shadow attack on an ensemble: a substitute head per subset of the bodies, and the one that inverts best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitveil.attacks.fitting import split
from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.shadow import ANSWERS, Learned, Shadow
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["ShadowBodies"]

_MOST_HELD_OUT = 512  # pictures that judge the subsets
_FEWEST_PAIRS = 8
_FEWEST_EPOCHS = 3  # of a decoder that judges: after one, all are as bad


@dataclass(frozen=True)
class ShadowBodies(Shadow):
    """The shadow attack through each body alone, through subsets, and through all; the best of them is kept.

    ```
    per subset   substitute -- decoder of few epochs -- error on pairs held out, or else loss on pictures held out
    the best     substitute -- decoder of all epochs
    ```

    The cloud holds all bodies and does not know which of them count. It trains a substitute head through every subset
    of at most `largest` bodies, and through all of them, on nine tenths of its pictures. Pictures that no substitute
    has seen judge: where pairs are granted, by the error of each subset's decoder on their releases; elsewhere by the
    loss of each substitute, as one in training would favour all bodies, whose reader holds every subset's. The pictures
    that are scored never judge. Decoders that do share the epochs of one, three each at least. On a tail of one body
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
        if bodies == 1:
            inverter = Shadow._fit(self, held, rng)
            inverter.facts["bodies"] = {"chosen": [0], "by": "nothing else to try", "tried": []}
            return inverter
        trial = _Trial.of(held, self.val_share, rng)
        subsets = list(self._subsets(bodies))
        short = replace(self, epochs=min(self.epochs, max(_FEWEST_EPOCHS, self.epochs // len(subsets))))
        tried, learned = list[dict[str, Any]](), list[Learned]()
        for subset in subsets:
            found = self._shadow(held, rng.child("shadow", *(subset or ("all",))), trial.fit, subset)
            loss = self._loss(held, found, trial.judging, rng)
            error = trial.error(partial(short._invert, held, found.substitute, rng, trial.fit))
            tried.append({"bodies": list(subset or range(bodies)), "loss": loss, "error": error})
            learned.append(found)
        by = "loss" if trial.pairs is None else "error"
        best = min(range(len(tried)), key=lambda place: float(tried[place][by]))
        inverter = self._invert(held, learned[best].substitute, rng)
        inverter.facts["shadow"] = learned[best].history
        inverter.facts["held_out_pairs"] = 0 if trial.pairs is None else len(trial.pairs[0])
        inverter.facts["bodies"] = {"chosen": tried[best]["bodies"], "by": by, "tried": tried}
        return inverter

    def _loss(self, view: AttackerView, learned: Learned, indices: Tensor, rng: Rng) -> float:
        """Of a substitute on pictures that it has not seen, under the same noise and overheard releases for all."""
        with torch.no_grad():
            losses = list(self._losses(view, learned, indices, rng.child("judge")))
        return sum(float(task + self.match * match) for task, match in losses) / len(losses)

    def _subsets(self, bodies: int) -> Iterator[tuple[int, ...] | None]:
        """Of the bodies, the smallest first; None for all of them."""
        if bodies > 1:
            for size in range(1, min(self.largest, bodies - 1) + 1):
                yield from combinations(range(bodies), size)
        yield None


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Pictures to learn from, pictures that judge, and as many releases of these as are granted and paid for."""

    fit: Tensor
    judging: Tensor
    pairs: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, view: AttackerView, share: float, rng: Rng) -> _Trial:
        count, left = len(view.auxiliary), view.queries_left
        fit, judging = split(count, count, share, rng.child("held out"))
        judging = judging[:_MOST_HELD_OUT]
        paid = judging if left is None else judging[: left // view.threat.observations]
        if not view.threat.allows("pairs") or len(paid) < min(_FEWEST_PAIRS, len(judging)):
            return cls(fit, judging, None)
        return cls(fit, judging, view.pairs(paid, rng.child("pairs")))

    def error(self, inverter: Callable[[], DecoderInverter]) -> float | None:
        """Mean squared error on the pairs held out, of an inverter that is made where there are some."""
        if self.pairs is None:
            return None
        x, r = self.pairs
        return float((inverter().invert(r) - x).double().square().mean())
