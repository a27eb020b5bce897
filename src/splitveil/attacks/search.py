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

_LAST_SHARE = 0.2
_CONVERGED = 1e-2


@dataclass(frozen=True)
class Searching:
    """How to search: Adam with a cosine rate, from several starts.

    Args:
        steps: of each search.
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
    """

    def __init__(
        self,
        simulate: Callable[[Tensor], Tensor],
        prior: Prior,
        variance: Tensor,
        searching: Searching,
        rng: Rng,
        begin: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._simulate, self._prior, self._variance = simulate, prior, variance
        self._searching, self._rng, self._begin = searching, rng, begin
        self.facts: dict[str, Any] = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """The best of all starts for each release."""
        found: list[Tensor] = []
        values: list[Tensor] = []
        late = torch.zeros((), dtype=torch.float64)
        for restart in range(self._searching.restarts):
            w, objective, before = self._search(r.detach(), self._start(r, restart))
            found.append(w)
            values.append(objective)
            late = late + (before.double().sum() - objective.double().sum()) / before.double().sum().abs().clamp_min(
                1e-12
            )
        best = torch.stack(values).argmin(0)
        chosen = torch.stack(found)[best, torch.arange(len(r), device=r.device)]
        self.facts["converged"] = bool(late / self._searching.restarts < _CONVERGED) and self.facts.get(
            "converged", True
        )
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

    def _search(self, r: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates, their objective ``(n,)``, and the objective before the last fifth of the steps."""
        w = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([w], lr=self._searching.lr)
        before = torch.full((len(r),), math.inf)
        last = self._searching.steps - max(1, round(_LAST_SHARE * self._searching.steps))
        with torch.enable_grad():
            for step in range(self._searching.steps):
                for group in optimiser.param_groups:
                    group["lr"] = self._searching.lr * (1 + math.cos(math.pi * step / self._searching.steps)) / 2
                objective = self._objective(w, r)
                if step == last:
                    before = objective.detach()
                optimiser.zero_grad(set_to_none=True)
                w.grad = torch.autograd.grad(objective.sum(), w)[0]
                optimiser.step()
        with torch.no_grad():
            return w.detach(), self._objective(w, r), before

    def _objective(self, w: Tensor, r: Tensor) -> Tensor:
        error = (self._simulate(self._prior.draw(w)) - r).square() / (2 * self._variance)
        return error.flatten(1).sum(1) + self._prior.energy(w)
