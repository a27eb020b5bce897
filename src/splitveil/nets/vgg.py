"""VGG-11 with batch norm, cut behind a bottleneck and a sigmoid (CEM paper, section 5.1 and supplement)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from splitveil.errors import SpecError
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

__all__ = ["vgg11"]

_POOL = None
_ENTRIES: tuple[int | None, ...] = (64, _POOL, 128, _POOL, 256, 256, _POOL, 512, 512, _POOL, 512, 512, _POOL)
_HIDDEN = 512


def vgg11(
    *,
    classes: int,
    input_shape: Sequence[int] = (3, 32, 32),
    cut: int = 4,
    width: float = 1.0,
    bottleneck: int | None = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.5,
) -> SplitParts:
    """VGG-11 whose head is the first `cut` entries of ``64 M 128 M 256 256 M 512 512 M 512 512 M``.

    ```
    head: normalise - entries < cut - conv3x3 to bottleneck - sigmoid
    tail: conv3x3 back - entries >= cut - average pool - classifier
    ```

    Args:
        classes: k >= 2.
        input_shape: ``(c, h, w)``, sides of at least 32 because of the five poolings.
        cut: entries of the head, 1 to 13; a pooling counts as one.
        width: factor of all channels but the bottleneck's, in (0, 8]; rounded to multiples of 8.
        bottleneck: channels on the wire; None leaves out the two convolutions around it.
        mean: per channel, of the training pictures; None for 0.
        std: per channel, of the training pictures; None for 1.
        dropout: of the classifier, in [0, 1).

    Returns:
        `SplitParts` with a feature in (0, 1); at cut 4 and 32 x 32 it is 8 x 8 x 8.

    Raises:
        SpecError: an argument out of range.

    Example:
        >>> vgg11(classes=10, width=0.25).feature.shape
        (8, 8, 8)
    """
    pools = _ENTRIES.count(_POOL)
    check_choice(classes=classes, width=width, narrow=bottleneck, cut=cut, cuts=len(_ENTRIES))
    channels, height, breadth = check_picture(input_shape, 2**pools, f"{pools} poolings by 2")
    if not 0 <= dropout < 1:
        raise SpecError(f"expected 0 <= dropout < 1, got {dropout!r}")
    widths = [None if entry is _POOL else scaled(entry, width) for entry in _ENTRIES]
    first, at_cut = _stack(channels, widths[:cut])
    rest, last = _stack(at_cut, widths[cut:])
    head = nn.Sequential(
        OrderedDict(normalise=Normalise(channels, mean, std), features=first, bottleneck=narrow_end(at_cut, bottleneck))
    )
    init_head(head)
    tail = nn.Sequential(
        OrderedDict(
            expansion=expansion(bottleneck, at_cut),
            features=rest,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=_classifier(last, scaled(_HIDDEN, width), classes, dropout),
        )
    )
    shrink = 2 ** widths[:cut].count(_POOL)
    feature = feature_spec(at_cut, bottleneck, height // shrink, breadth // shrink)
    return SplitParts(head, tail, (channels, height, breadth), feature=feature)


def _stack(channels: int, widths: list[int | None]) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    for size in widths:
        if size is _POOL:
            layers.append(nn.MaxPool2d(2))
        else:
            layers.append(conv_bn_relu(channels, size))
            channels = size
    return nn.Sequential(*layers), channels


def _classifier(features: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
