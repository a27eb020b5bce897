"""Pieces that the built-in networks share, and the checks of their arguments."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError

__all__ = [
    "Normalise",
    "narrow_end",
    "check_choice",
    "check_picture",
    "conv_bn_relu",
    "expansion",
    "feature_spec",
    "init_head",
    "scaled",
]

_WIDEST = 8.0


class Normalise(nn.Module):
    """``(x - mean) / std`` per channel, with the statistics as buffers; the identity when neither is given.

    Args:
        channels: c of a picture.
        mean: c values, units of x.
        std: c values > 0, units of x.

    Raises:
        SpecError: a list of another length, or a std that is not positive.

    Example:
        >>> float(Normalise(1, mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 1)))
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        means = _per_channel(mean, channels, 0.0, "mean")
        stds = _per_channel(std, channels, 1.0, "std")
        if min(stds) <= 0:
            raise SpecError(f"expected every std > 0, got {stds}: measure it on the training pictures")
        self.register_buffer("mean", torch.tensor(means).reshape(channels, 1, 1))
        self.register_buffer("std", torch.tensor(stds).reshape(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to the same shape."""
        return (x - self.mean) / self.std


def _per_channel(values: Sequence[float] | None, channels: int, default: float, name: str) -> list[float]:
    if values is None:
        return [default] * channels
    floats = [float(value) for value in values]
    if len(floats) != channels or not all(map(math.isfinite, floats)):
        raise SpecError(f"expected {channels} finite values of {name}, one per channel, got {floats}")
    return floats


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, at least 8.

    Example:
        >>> scaled(64, 0.25), scaled(64, 0.01)
        (16, 8)
    """
    return max(8, 8 * round(channels * width / 8))


def conv_bn_relu(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution with padding 1, batch norm, ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
            norm=nn.BatchNorm2d(channels_out),
            relu=nn.ReLU(),
        )
    )


def narrow_end(channels: int, narrow: int | None) -> nn.Sequential:
    """The end of a head: a 3x3 convolution to `narrow` channels without ReLU, and a sigmoid; None: no convolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if narrow is not None:
        layers["conv"] = nn.Conv2d(channels, narrow, 3, padding=1)
    layers["squash"] = nn.Sigmoid()
    return nn.Sequential(layers)


def expansion(narrow: int | None, channels: int) -> nn.Sequential:
    """The start of a tail: a 3x3 convolution back to `channels`, empty where there was no bottleneck."""
    return nn.Sequential() if narrow is None else nn.Sequential(nn.Conv2d(narrow, channels, 3, padding=1))


def feature_spec(channels: int, narrow: int | None, height: int, width: int) -> FeatureSpec:
    """The spec of a map behind `narrow_end`."""
    return FeatureSpec.of((channels if narrow is None else narrow, height, width), range=(0.0, 1.0))


def init_head(head: nn.Module) -> None:
    """Xavier-uniform weights for the head's convolutions, from torch's global generator."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)


def check_picture(input_shape: Sequence[int], smallest_side: int, reason: str) -> tuple[int, int, int]:
    """The picture's ``(c, h, w)``, or `SpecError` unless both sides reach the smallest one."""
    sizes = tuple(input_shape)
    if len(sizes) != 3 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise SpecError(f"expected input_shape (c, h, w) of three integers >= 1, got {sizes}")
    if min(sizes[1:]) < smallest_side:
        raise SpecError(
            f"expected pictures of at least {smallest_side} x {smallest_side} ({reason}), got {sizes}: "
            "enlarge them or choose a smaller model"
        )
    return sizes[0], sizes[1], sizes[2]


def check_choice(*, classes: int, width: float, narrow: int | None, cut: int = 1, cuts: int = 1) -> None:
    """Raise `SpecError` unless the arguments that all factories share are in range."""
    if not isinstance(classes, int) or classes < 1:  # one for a single value
        raise SpecError(f"expected classes >= 1, the outputs of the network, got {classes!r}")
    if not (isinstance(width, (int, float)) and 0 < width <= _WIDEST):
        raise SpecError(f"expected 0 < width <= {_WIDEST:g}, got {width!r}")
    if narrow is not None and not (isinstance(narrow, int) and narrow >= 1):
        raise SpecError(f"expected bottleneck >= 1 channels or None, got {narrow!r}")
    if not (isinstance(cut, int) and 1 <= cut <= cuts):
        raise SpecError(f"expected cut between 1 and {cuts}, got {cut!r}")
