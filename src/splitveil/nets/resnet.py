"""ResNet-20 with a 5x5 stem and parameter-free shortcuts, cut behind a bottleneck and a sigmoid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from splitveil.nets.layers import (
    Normalise,
    check_choice,
    check_picture,
    expansion,
    feature_spec,
    init_head,
    narrow_end,
    scaled,
)
from splitveil.nets.parts import SplitParts

__all__ = ["BasicBlock", "resnet20"]

_STEM = 16
_STAGES = ((32, 3), (64, 3), (128, 3))
_SMALLEST_SIDE = 8


class BasicBlock(nn.Module):
    """``ReLU(F(x) + S(x))``: F two 3x3 convolutions with batch norm, S the strided picture padded with zero channels.

    Args:
        channels_in: of x.
        channels_out: of the result, at least `channels_in`.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        missing = channels_out - channels_in
        self.padding = (missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels_in, h, w)`` to ``(n, channels_out, ceil(h / stride), ceil(w / stride))``."""
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
        return functional.relu(inner + shortcut)


def resnet20(
    *,
    classes: int,
    input_shape: Sequence[int] = (3, 64, 64),
    cut: int = 5,
    width: float = 1.0,
    bottleneck: int | None = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitParts:
    """ResNet-20 (stem 16, stages of 3 blocks with 32, 64, 128 channels, each first block with stride 2).

    Args:
        classes: k >= 2.
        input_shape: ``(c, h, w)``, sides of at least 8.
        cut: modules of the head, 1 (the stem) to 10 (all nine blocks too).
        width: factor of all channels but the bottleneck's, in (0, 8]; rounded to multiples of 8.
        bottleneck: channels on the wire; None leaves out the two convolutions around it.
        mean: per channel, of the training pictures; None for 0.
        std: per channel, of the training pictures; None for 1.

    Returns:
        `SplitParts` with a feature in (0, 1); at cut 5 and 64 x 64 it is 8 x 16 x 16.

    Raises:
        SpecError: an argument out of range.

    Example:
        >>> resnet20(classes=200, width=0.5).feature.shape
        (8, 16, 16)
    """
    blocks = sum(count for _, count in _STAGES)
    check_choice(classes=classes, width=width, narrow=bottleneck, cut=cut, cuts=blocks + 1)
    plan = _plan(width)
    channels, height, breadth = check_picture(input_shape, _SMALLEST_SIDE, "three strides of 2")
    stem_width = scaled(_STEM, width)
    modules: list[nn.Module] = [_stem(channels, stem_width), *(BasicBlock(*block) for block in plan)]
    at_cut, sides = stem_width, (height, breadth)
    for _, size, stride in plan[: cut - 1]:
        at_cut, sides = size, (-(-sides[0] // stride), -(-sides[1] // stride))
    head = nn.Sequential(
        OrderedDict(
            normalise=Normalise(channels, mean, std),
            features=nn.Sequential(*modules[:cut]),
            bottleneck=narrow_end(at_cut, bottleneck),
        )
    )
    init_head(head)
    tail = nn.Sequential(
        OrderedDict(
            expansion=expansion(bottleneck, at_cut),
            features=nn.Sequential(*modules[cut:]),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(plan[-1][1], classes),
        )
    )
    return SplitParts(head, tail, (channels, height, breadth), feature=feature_spec(at_cut, bottleneck, *sides))


def _plan(width: float) -> list[tuple[int, int, int]]:
    blocks, channels = [], scaled(_STEM, width)
    for stage, count in _STAGES:
        size = scaled(stage, width)
        for index in range(count):
            blocks.append((channels, size, 2 if index == 0 else 1))
            channels = size
    return blocks


def _stem(channels: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(channels, size, 5, padding=2, bias=False), norm=nn.BatchNorm2d(size), relu=nn.ReLU())
    )
