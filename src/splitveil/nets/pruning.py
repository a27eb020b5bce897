"""Structured pruning to a budget: whole channels go, the least important first."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from splitveil.errors import MissingExtraError, SpecError
from splitveil.modes import evaluating
from splitveil.nets.watching import layer_outputs

__all__ = ["prune_to_budget", "require_torch_pruning"]

_STEPS = 200  # in which all channels would go: half a percent each
_TIE = 1e-3
_MOST = 0.95  # of the channels of a layer


def require_torch_pruning() -> Any:
    """The package torch_pruning.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("torch_pruning") is None:
        raise MissingExtraError("torch-pruning", "prune", "pruning a head")
    return import_module("torch_pruning")


def prune_to_budget(
    module: nn.Module, input_shape: tuple[int, ...], cost: Callable[[nn.Module], int], budget: float
) -> None:
    """Remove channels in place, over all layers together, until the module costs no more than the budget.

    The shapes of input and output stay: the last layer keeps its channels. Importance is the size of a channel's scale
    in batch norm, which `channel_sparsity` lets fade; where scales are equal or missing, the size of its weights.
    Parameters are replaced by smaller ones, so an optimiser has to be built anew.

    Args:
        module: of convolutions and linear layers.
        input_shape: of one sample.
        cost: of the module as it stands.
        budget: in the unit of `cost`.

    Raises:
        MissingExtraError: torch-pruning is not installed.
        SpecError: no pruning reaches the budget.
    """
    if cost(module) <= budget:
        return
    pruning = require_torch_pruning()
    example = torch.zeros(2, *input_shape, device=next(module.parameters()).device)
    trained = any(parameter.requires_grad for parameter in module.parameters())
    module.requires_grad_(True)  # its graph is read off a backward pass
    with evaluating(module):
        pruner = pruning.pruner.BasePruner(
            module,
            example,
            importance=_Importance(pruning.importance),
            pruning_ratio=_MOST,
            max_pruning_ratio=_MOST,
            iterative_steps=_STEPS,
            global_pruning=True,
            ignored_layers=[_last_layer(module, example)],
        )
        spent = cost(module)
        for _ in range(_STEPS):
            pruner.step()
            spent = cost(module)
            if spent <= budget:
                break
    module.requires_grad_(trained)
    if spent > budget:
        raise SpecError(
            f"expected a head that can be pruned to a cost of {budget:.0f}, got {spent} at the least: allow a larger "
            "edge_budget, or make the head less deep"
        )


class _Importance:
    """The scales of the norms of a group, and, far less, the sizes of its weights, so that none are equal."""

    def __init__(self, importance: Any) -> None:
        self._scale, self._size = importance.BNScaleImportance(), importance.GroupMagnitudeImportance(p=1)

    def __call__(self, group: Any, **options: Any) -> torch.Tensor | None:
        scale, size = self._scale(group, **options), self._size(group, **options)
        if scale is None or size is None:
            return cast("torch.Tensor | None", size if scale is None else scale)
        return cast(torch.Tensor, scale + _TIE * size)


def _last_layer(module: nn.Module, example: torch.Tensor) -> nn.Module:
    with layer_outputs(module) as found, torch.no_grad():
        module(example)
    if not found:
        raise SpecError("expected a head with convolutions or linear layers to prune, got none")
    return found[-1][0]
