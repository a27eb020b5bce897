"""A small network from a release of any kind to a vector: what recognises where a decoder redraws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError
from splitveil.nets.layers import conv_bn_relu

__all__ = ["EmbeddingNet"]

_LAST_SIDE = 4  # positions along a side that the last layer still tells apart
_WIDENINGS = 2  # doublings of the channels
_HIDDEN = 8  # units of a vector's hidden layer, in units of the width


class EmbeddingNet(nn.Module):
    """A convolutional net on maps and on tokens that lie on a grid, a net of one hidden layer on all else.

    ```
    map     r --[ conv 3x3 - BN - ReLU ]--[ the same, halving the sides, until they are 4 or less ]--[ linear ]-- vector
    vector  r --[ linear - BN - ReLU ]--[ linear ]-- vector
    ```
    Tokens before the grid go straight to the last layer.

    Args:
        release: spec of r.
        outputs: values of the vector.
        width: channels of the first convolution.

    Raises:
        SpecError: sizes below 1.

    Example:
        >>> EmbeddingNet(FeatureSpec.of((8, 16, 16)), outputs=64, width=16)(torch.zeros(2, 8, 16, 16)).shape
        torch.Size([2, 64])
    """

    def __init__(self, release: FeatureSpec, *, outputs: int, width: int = 32) -> None:
        super().__init__()
        if min(outputs, width) < 1:
            raise SpecError(f"expected outputs and width >= 1, got {outputs} and {width}")
        self.release = release
        channels = release.shape[release.channel_axis]
        if release.grid is None:
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(release.numel, _HIDDEN * width), nn.BatchNorm1d(_HIDDEN * width), nn.ReLU()
            )
            values = _HIDDEN * width
        else:
            self.body, values = _convolutions(channels, release.grid, width)
        self.last = nn.Linear(values + release.prefix_tokens * channels * (release.grid is not None), outputs)

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to ``(n, outputs)``."""
        if self.release.grid is None:
            vector: Tensor = self.last(self.body(r))
            return vector
        places = r.movedim(self.release.channel_axis + 1, 1).flatten(2)
        prefix, grid = places.tensor_split([self.release.prefix_tokens], dim=2)
        read = self.body(grid.reshape(*grid.shape[:2], *self.release.grid)).flatten(1)
        joined: Tensor = self.last(torch.cat([read, prefix.flatten(1)], dim=1))
        return joined


def _convolutions(channels: int, sides: tuple[int, int], width: int) -> tuple[nn.Sequential, int]:
    """The layers, and the number of values that they end in."""
    layers, wide = [conv_bn_relu(channels, width)], width
    while max(sides) > _LAST_SIDE:
        wider = min(2 * wide, width * 2**_WIDENINGS)
        layers.append(conv_bn_relu(wide, wider, stride=2))
        wide, sides = wider, (-(-sides[0] // 2), -(-sides[1] // 2))
    return nn.Sequential(*layers), wide * sides[0] * sides[1]
