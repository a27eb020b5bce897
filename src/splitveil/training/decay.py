"""Which parameters weight decay pulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from splitveil.contracts import Mechanism

__all__ = ["decayed_or_not"]


def decayed_or_not(model: nn.Module, trained: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups of an optimiser: the parameters that decay, and those that mechanisms keep from it.

    Args:
        model: with the mechanisms, see `Mechanism.no_weight_decay`.
        trained: the parameters that the optimiser moves.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> [list(group) for group in decayed_or_not(layer, list(layer.parameters()))]
        [['params']]
    """
    spared = {
        id(getattr(module, name))
        for module in model.modules()
        if isinstance(module, Mechanism)
        for name in module.no_weight_decay
    }
    weights = [parameter for parameter in trained if id(parameter) not in spared]
    others = [parameter for parameter in trained if id(parameter) in spared]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
