"""UnSplit: the attacker knows what the head looks like, and neither its weights nor a single pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from splitveil.attacks.priors import differences
from splitveil.attacks.view import attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["UnSplit", "UnSplitInverter"]

_CONVERGED = 1e-2
_CHUNK = 64  # releases at a time: each brings a clone of the head


@dataclass(frozen=True)
class UnSplit(Attack):
    """``min over x and the weights of a clone of |clone(x) - r|^2 + a TV(x)``, by turns, for each release.

    Args:
        rounds: of both turns.
        picture_steps: of the picture in a round.
        clone_steps: of the clone's weights in a round.
        picture_lr: of logits.
        clone_lr: of weights.
        smoothness: a, of the mean total variation, in units of the release's variance.

    Raises:
        SpecError: a value out of range.

    Reference:
        Erdogan, Küpçü, Çiçek: UnSplit, WPES 2022.
    """

    name: ClassVar[str] = "unsplit"
    needs: ClassVar[frozenset[Grant]] = frozenset({"architecture"})
    needs_auxiliary = False

    rounds: int = 50
    picture_steps: int = 10
    clone_steps: int = 10
    picture_lr: float = 0.05
    clone_lr: float = 1e-2
    smoothness: float = 0.05

    def __post_init__(self) -> None:
        if min(self.rounds, self.picture_steps, self.clone_steps) < 1:
            raise SpecError(f"expected rounds, picture_steps, clone_steps >= 1, got {self}")
        if not (0 < self.picture_lr < math.inf and 0 < self.clone_lr < math.inf and 0 <= self.smoothness < math.inf):
            raise SpecError(f"expected picture_lr, clone_lr > 0 and smoothness >= 0, got {self}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        clone = held.architecture(rng.child("clone")).eval()
        return UnSplitInverter(clone, held.input_shape, self)


class UnSplitInverter(Inverter):
    """Searches picture and clone together; every release has a clone of its own, so rows do not see each other.

    Args:
        clone: a head with fresh weights, from which every search begins.
        picture: ``(c, h, w)``.
        attack: how to search.
    """

    searches = True

    def __init__(self, clone: nn.Module, picture: tuple[int, ...], attack: UnSplit) -> None:
        super().__init__()
        self._clone, self._picture, self._attack = [clone], picture, attack  # a list: no part of the state
        self.facts: dict[str, Any] = {"rounds": attack.rounds}

    def reconstruct(self, r: Tensor) -> Tensor:
        """Pictures of releases ``(n, *r)``, in (0, 1)."""
        found, done = list[Tensor](), 0
        for chunk in torch.split(r, _CHUNK):
            found.append(self._chunk(chunk.detach()))
            done += len(chunk)
            self.report(done / len(r))
        return torch.cat(found)

    def _chunk(self, r: Tensor) -> Tensor:
        clone = deepcopy(self._clone[0]).to(r.device)
        parameters, buffers = stack_module_state([clone] * len(r))
        weights = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        w = torch.zeros((len(r), *self._picture), device=r.device, requires_grad=True)
        scale = r.flatten(1).var(1).clamp_min(torch.finfo(r.dtype).tiny)

        def one(own: dict[str, Tensor], held: dict[str, Tensor], x: Tensor) -> Tensor:
            features: Tensor = functional_call(clone, (own, held), (x[None],))
            return features[0]

        def misfit() -> Tensor:
            x = w.sigmoid()
            error = (vmap(one)(weights, buffers, x) - r).flatten(1).square().mean(1) / scale
            rough = sum(step.abs().flatten(1).mean(1) for step in differences(x))
            return error + self._attack.smoothness * rough

        attack, values = self._attack, list[float]()
        pictures = torch.optim.Adam([w], lr=attack.picture_lr)
        clones = torch.optim.Adam(list(weights.values()), lr=attack.clone_lr)
        # attention has batching rules in its plain form alone
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for _ in range(attack.rounds):
                _turn(pictures, misfit, [w], attack.picture_steps)
                values.append(_turn(clones, misfit, list(weights.values()), attack.clone_steps))
        last = max(1, attack.rounds // 5)
        self.facts["misfit"] = values[-1]
        if attack.rounds > last:
            stands = values[-1] > values[-1 - last] * (1 - _CONVERGED)
            self.facts["converged"] = stands and self.facts.get("converged", True)  # of all chunks of releases
        return w.detach().sigmoid()


def _turn(optimiser: torch.optim.Optimizer, misfit: Callable[[], Tensor], moved: list[Tensor], steps: int) -> float:
    """Some steps of one side; the mean misfit before the last."""
    value = torch.zeros(())
    for _ in range(steps):
        value = misfit()
        for tensor, gradient in zip(moved, torch.autograd.grad(value.sum(), moved, allow_unused=True), strict=True):
            tensor.grad = gradient
        optimiser.step()
    return float(value.detach().mean())
