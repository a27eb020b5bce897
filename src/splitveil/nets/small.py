"""A small convolutional net for pictures such as the digits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from splitveil.nets.layers import (
    Normalise,
    check_choice,
    check_picture,
    conv_bn_relu,
    expansion,
    feature_spec,
    init_head,
    narrow_end,
    scaled,
)
from splitveil.nets.parts import SplitParts

__all__ = ["small"]

_HEAD, _TAIL = 16, 32
_SMALLEST_SIDE = 4


def small(
    *,
    classes: int,
    input_shape: Sequence[int] = (1, 8, 8),
    width: float = 1.0,
    bottleneck: int | None = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitParts:
    """Two convolutions on the edge, two in the cloud.

    ```
    head: normalise - conv 16 - conv 16 / stride 2 - conv3x3 to bottleneck - sigmoid
    tail: conv3x3 back - conv 32 - conv 32 - average pool - linear
    ```

    Args:
        classes: k >= 2.
        input_shape: ``(c, h, w)``, sides of at least 4.
        width: factor of all channels but the bottleneck's, in (0, 8]; rounded to multiples of 8.
        bottleneck: channels on the wire; None leaves out the two convolutions around it.
        mean: per channel, of the training pictures; None for 0.
        std: per channel, of the training pictures; None for 1.

    Returns:
        `SplitParts` with a feature in (0, 1); 8 x 4 x 4 for digits, twice the values of the picture, so that an
        undefended head is easy to invert.

    Raises:
        SpecError: an argument out of range.

    Example:
        >>> small(classes=10).feature.shape
        (8, 4, 4)
    """
    check_choice(classes=classes, width=width, narrow=bottleneck)
    channels, height, breadth = check_picture(input_shape, _SMALLEST_SIDE, "one stride of 2 before two convolutions")
    first, second = scaled(_HEAD, width), scaled(_TAIL, width)
    head = nn.Sequential(
        OrderedDict(
            normalise=Normalise(channels, mean, std),
            features=nn.Sequential(conv_bn_relu(channels, first), conv_bn_relu(first, first, stride=2)),
            bottleneck=narrow_end(first, bottleneck),
        )
    )
    init_head(head)
    tail = nn.Sequential(
        OrderedDict(
            expansion=expansion(bottleneck, first),
            features=nn.Sequential(conv_bn_relu(first, second), conv_bn_relu(second, second)),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(second, classes),
        )
    )
    feature = feature_spec(first, bottleneck, -(-height // 2), -(-breadth // 2))
    return SplitParts(head, tail, (channels, height, breadth), feature=feature)
