"""A network of a user's with a factory that cuts it where it is told."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from splitveil.nets.cutting import split
from splitveil.nets.parts import SplitParts


def net(channels: int = 1, classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def cut_net(*, at: str, classes: int, input_shape: Sequence[int]) -> SplitParts:
    return split(net(input_shape[0], classes), at, input_shape=input_shape, bottleneck=4)
