"""A committee of decoders: the mean of what they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitveil.attacks.decoder import Decoder
from splitveil.attacks.view import attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError
from splitveil.registry import build
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Committee", "CommitteeInverter"]

_FEWEST = 2


class CommitteeInverter(Inverter):
    """``mean_k g_k(r)``.

    Args:
        members: fitted attacks.
    """

    def __init__(self, members: Sequence[Inverter]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.facts: dict[str, Any] = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """The mean of the members' pictures."""
        return torch.stack([member.reconstruct(r) for member in self._inverters()]).mean(0)

    def _inverters(self) -> list[Inverter]:
        return [member for member in self.members if isinstance(member, Inverter)]


@dataclass(frozen=True)
class Committee(Attack):
    """Several decoders, and the mean of their pictures.

    ```
    r --+-- g_1 --+
        +-- g_2 --+-- mean           |mean - x|^2 = mean of |g_k - x|^2 - mean of |g_k - mean|^2
        +-- ...   --+
    ```
    So a committee is never worse than its members are on average, and better by as much as they disagree. Where a
    suite holds the same decoders, they are not trained again.

    Args:
        members: parameters of the decoders, see `splitveil.attacks.decoder.Decoder`.

    Raises:
        SpecError: fewer than two members, or two alike.

    Reference:
        Krogh and Vedelsby: Neural Network Ensembles, Cross Validation, and Active Learning, NeurIPS 1994.
    """

    name: ClassVar[str] = "committee"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})

    members: Sequence[Mapping[str, Any]] = ({}, {"architecture": "unet", "standardise": "whiten"})

    def __post_init__(self) -> None:
        described = [repr(member) for member in self._decoders()]
        if len(set(described)) < max(_FEWEST, len(described)):
            raise SpecError(f"expected at least two members, no two alike, got {len(described)}: {described}")

    def _decoders(self) -> list[Decoder]:
        return [build(Decoder, member, "a member of attack 'committee'") for member in self.members]

    def _fit(self, view: View, rng: Rng) -> CommitteeInverter:
        held = attacker_view(view)
        decoders, members = self._decoders(), list[Inverter]()
        for number, decoder in enumerate(decoders):
            with held.within(len(decoders) - number):  # under a budget, each has its part of what is left
                members.append(held.borrow(decoder, rng.child("member", number)))
        inverter = CommitteeInverter(members)
        inverter.facts = {
            "members": [member.facts.get("best_val_mse") for member in members],
            "converged": all(bool(member.facts.get("converged")) for member in members),
            "fresh_noise": any(bool(member.facts.get("fresh_noise")) for member in members),
        }
        return inverter.eval()
