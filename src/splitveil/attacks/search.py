"""Attacks that search for the picture of each release: no network is learned, so nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitveil.attacks.priors import Prior
from splitveil.contracts import Inverter
from splitveil.rng import Rng

__all__ = ["SearchInverter", "Searching"]

_FIRST_CYCLE = 0.75  # of the steps
_SECOND_RATE = 0.5  # of the first rate: enough to leave a place that only a spent rate made look final
_CONVERGED = 1e-2
_TENTH = 0.1
_NOTHING = 1e-6  # of the first objective: what is left of a misfit that can be made to vanish
_ROWS = 2048  # searches that run in one batch


@dataclass(frozen=True)
class Searching:
    """How to search: Adam with a cosine rate, from several starts.

    The rate falls to zero over three quarters of the steps, so the objective stands still then whatever is left to
    gain. The last quarter begins anew at half the rate: a search has converged where that gains less than 1 %, and
    less than a tenth of what the first cycle gained or of that 1 % (steps too few to get anywhere gain little, too).

    Args:
        steps: of each search, both cycles together.
        lr: first learning rate, in the prior's coordinates.
        restarts: searches per release; the one with the least objective counts.
        spread: of the starts after the first, in the prior's coordinates.
    """

    steps: int
    lr: float
    restarts: int
    spread: float = 1.0


class SearchInverter(Inverter):
    """``argmin_w |f(x(w)) - r|^2 / (2 v) + energy(w)``, for each release by itself.

    Rows do not see each other: their objectives are summed, and Adam moves every coordinate by its own gradient.

    Args:
        simulate: ``(n, c, h, w)`` to what is compared with r, with gradient.
        prior: coordinates and energy.
        variance: v, ``()`` or ``(*r)``.
        searching: how.
        rng: of the starts, by the row of a release in the call.
        begin: from releases to pictures to start from; None for the prior's own start.
        misses: from what is simulated and r to what is squared, ``f - r`` unless told otherwise.
    """

    searches = True

    def __init__(
        self,
        simulate: Callable[[Tensor], Tensor],
        prior: Prior,
        variance: Tensor,
        searching: Searching,
        rng: Rng,
        begin: Callable[[Tensor], Tensor] | None = None,
        misses: Callable[[Tensor, Tensor], Tensor] = torch.sub,
    ) -> None:
        super().__init__()
        self._simulate, self._prior, self._variance = simulate, prior, variance
        self._searching, self._rng, self._begin, self._misses = searching, rng, begin, misses
        self.facts: dict[str, Any] = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """The best of all starts for each release; as many starts as fit search in one batch."""
        r, restarts, n = r.detach(), self._searching.restarts, len(r)
        found, values, converged = list[Tensor](), list[Tensor](), True
        for group in torch.split(torch.arange(restarts), max(1, _ROWS // n)):
            numbers = group.tolist()
            start = torch.cat([self._start(r, number) for number in numbers])
            repeated = r.repeat(len(numbers), *[1] * (r.ndim - 1))
            w, objective, before = self._search(repeated, start, numbers)
            first = self._objective(start, repeated)
            found.extend(torch.split(w, n))
            values.extend(torch.split(objective, n))
            ends = zip(*(torch.split(each, n) for each in (first, before, objective)), strict=True)
            converged = converged and all(_still(*each) for each in ends)
        best = torch.stack(values).argmin(0)
        chosen = torch.stack(found)[best, torch.arange(n, device=r.device)]
        self.facts["converged"] = converged and self.facts.get("converged", True)
        self.facts["objective"] = float(torch.stack(values).amin(0).mean())
        with torch.no_grad():
            return self._prior.draw(chosen)

    def _start(self, r: Tensor, restart: int) -> Tensor:
        if restart == 0 and self._begin is not None:
            return self._prior.locate(self._begin(r))
        spread = self._searching.spread if restart else 0.0
        rows = [
            self._prior.start(1, self._rng.child("start", restart, row).generator(), spread) for row in range(len(r))
        ]
        return torch.cat(rows).to(r.device)

    def _search(self, r: Tensor, start: Tensor, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The better end of both cycles, its objective ``(n,)``, and the objective at the end of the first.

        Args:
            r: ``(n, *r)``, a release for each start.
            start: where to begin.
            numbers: of the restarts that search, for progress.
        """
        steps, lr = self._searching.steps, self._searching.lr
        first = max(1, round(_FIRST_CYCLE * steps))
        w, before = self._cycle(r, start, lr, range(first), numbers)
        if first == steps:
            return w, before, before
        again, after = self._cycle(r, w, _SECOND_RATE * lr, range(first, steps), numbers)
        better = after < before
        chosen = torch.where(better.reshape(-1, *[1] * (w.ndim - 1)), again, w)
        return chosen, torch.where(better, after, before), before

    def _cycle(self, r: Tensor, start: Tensor, lr: float, steps: range, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Where Adam with a rate that falls to zero ends, and the objective there."""
        w, searching = start.detach().clone().requires_grad_(), self._searching
        optimiser = torch.optim.Adam([w], lr=lr)
        with torch.enable_grad():
            for step in steps:
                for group in optimiser.param_groups:
                    group["lr"] = lr * (1 + math.cos(math.pi * (step - steps.start) / len(steps))) / 2
                w.grad = torch.autograd.grad(self._objective(w, r).sum(), w)[0]
                optimiser.step()
                done = numbers[0] + len(numbers) * (step + 1) / searching.steps
                self.report(done / searching.restarts)
        with torch.no_grad():
            return w.detach(), self._objective(w, r)

    def _objective(self, w: Tensor, r: Tensor) -> Tensor:
        error = self._misses(self._simulate(self._prior.draw(w)), r).square() / (2 * self._variance)
        return error.flatten(1).sum(1) + self._prior.energy(w)


def _still(start: Tensor, before: Tensor, after: Tensor) -> bool:
    """Whether the second cycle gained next to nothing, by the sums of objectives ``(n,)``."""
    first, last, end = (float(value.detach().double().sum()) for value in (start, before, after))
    gained, limit = last - end, _CONVERGED * max(abs(last), _NOTHING * abs(first))
    return gained <= limit and (gained <= _TENTH * limit or gained <= _TENTH * (first - last))
