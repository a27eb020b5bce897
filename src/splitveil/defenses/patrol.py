"""PATROL: a deeper head, pruned back to what the plain one costs, that hides from an inverse network."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn

from splitveil.contracts import positive
from splitveil.errors import SpecError, UnknownNameError
from splitveil.metrics.cost import count_parameters, multiply_adds
from splitveil.nets.layers import conv_bn_relu
from splitveil.nets.pruning import prune_to_budget
from splitveil.split_model import SplitModel

__all__ = ["DeepenHead", "DeeperEntry", "EdgeCost", "PruneHead"]

EdgeCost = Literal["parameters", "multiply_adds"]


class DeeperEntry(nn.Sequential):
    """A convolution with batch norm and ReLU, then the head's first convolution, widened to read it.

    Attributes:
        plain: what the head cost before it was made deeper, by `EdgeCost`.
    """

    def __init__(self, first: nn.Conv2d, channels: int, plain: dict[EdgeCost, int]) -> None:
        entry = nn.Conv2d(
            channels,
            first.out_channels,
            cast(tuple[int, int], first.kernel_size),
            cast(tuple[int, int], first.stride),
            first.padding if isinstance(first.padding, str) else cast(tuple[int, int], first.padding),
            cast(tuple[int, int], first.dilation),
            bias=first.bias is not None,
        )
        nn.init.xavier_uniform_(entry.weight)
        super().__init__(OrderedDict(deeper=conv_bn_relu(first.in_channels, channels), entry=entry))
        self.plain = plain


@dataclass(frozen=True)
class DeepenHead:
    """Put a 3 x 3 convolution with batch norm and ReLU before the first convolution of a head.

    Args:
        channels: of the new layer.
    """

    channels: int

    def __post_init__(self) -> None:
        if not (isinstance(self.channels, int) and self.channels >= 1):
            raise SpecError(f"expected channels >= 1 for the deeper head, got {self.channels!r}")

    def __call__(self, model: SplitModel) -> SplitModel:
        """The model with a deeper head; its features keep their shape.

        Raises:
            SpecError: the head has no convolution of one group to put another before.
        """
        for name, module in model.head.named_modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and name:
                plain: dict[EdgeCost, int] = {
                    cost: edge_cost(model.head, model.input_shape, cost) for cost in get_args(EdgeCost)
                }
                path, _, last = name.rpartition(".")
                setattr(model.head.get_submodule(path), last, DeeperEntry(module, self.channels, plain))
                return model
        raise SpecError("patrol expects a head with a convolution to make it deeper, got none")


@dataclass(frozen=True)
class PruneHead:
    """Prune a deepened head until it costs the device `edge_budget` times what the plain head cost.

    Args:
        edge_budget: > 0.
        cost: ``parameters`` or ``multiply_adds``.
    """

    edge_budget: float
    cost: EdgeCost

    def __post_init__(self) -> None:
        positive(self.edge_budget, "edge_budget")
        if self.cost not in get_args(EdgeCost):
            raise UnknownNameError("edge cost", str(self.cost), get_args(EdgeCost))

    def __call__(self, model: nn.Module) -> None:
        """Change the head in place."""
        split = cast(SplitModel, model)
        entries = [module for module in split.head.modules() if isinstance(module, DeeperEntry)]
        budget = self.edge_budget * entries[0].plain[self.cost]
        prune_to_budget(
            split.head, split.input_shape, lambda head: edge_cost(head, split.input_shape, self.cost), budget
        )


def edge_cost(head: nn.Module, input_shape: tuple[int, ...], cost: EdgeCost) -> int:
    """Parameters of a head, or its multiply-adds per picture."""
    return count_parameters(head) if cost == "parameters" else multiply_adds(head, input_shape)
