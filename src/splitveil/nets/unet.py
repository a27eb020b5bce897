"""A U-Net as inverse network: it sees the release at every scale of the picture."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.nets.inversion import PictureDecoder, ReleaseMap, ResidualBlock, draw_from_nothing

__all__ = ["UNetDecoder", "resample"]

_COARSEST = 4  # a smaller map holds no more than the padding around it
_MOST_HALVINGS = 3


class UNetDecoder(PictureDecoder):
    """A multi-scale encoder-decoder on the picture's grid, whose encoder is shown the release at each of its scales.

    ```
    r --[ to a map ]--+-----------------+--------------------+
                      | x2^k            | pool or x2^j       |
                      v                 v                    v
                    RB C --[ /2 ]-- + RB 2C --[ /2 ]-- ... + N x RB 2C
                      |                 |                    |
    picture -- draw - RB C --[ x2 ]---- RB 2C --[ x2 ]--------+         (horizontal: skips by concatenation)
    ```

    The grid is halved while its smaller side stays at 4 or more, three times at most.

    Args:
        release: spec of r; a vector, and tokens without a grid, get a linear layer first.
        picture: ``(c, h, w)``.
        channels: C of the finest scale; the others have twice as many.
        blocks: N at the coarsest scale, beside one at each other scale and direction.

    Raises:
        SpecError: sizes below 1.

    Example:
        >>> net = UNetDecoder(FeatureSpec.of((8, 8, 8)), (3, 32, 32))
        >>> round(sum(parameter.numel() for parameter in net.parameters()) / 1e6, 1)
        4.5

    Reference:
        Ronneberger, Fischer and Brox 2015.
    """

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, channels: int = 64, blocks: int = 8) -> None:
        super().__init__(picture, channels, blocks)
        self.to_map = ReleaseMap(release, channels, (picture[1], picture[2]))
        self.scales = _scales(picture[1], picture[2])
        widths = [channels, *[2 * channels] * (len(self.scales) - 1)]
        self.show = nn.ModuleList(nn.Conv2d(self.to_map.channels, width, 1) for width in widths)
        self.down = nn.ModuleList(ResidualBlock(width, width) for width in widths[:-1])
        self.halve = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(widths))
        self.middle = nn.Sequential(*[ResidualBlock(widths[-1], widths[-1]) for _ in range(blocks)])
        self.up = nn.ModuleList(ResidualBlock(coarse + fine, fine) for fine, coarse in pairwise(widths))
        self.draw = draw_from_nothing(channels, picture[0])

    def logits(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to what stands before the sigmoid."""
        shown, skips = self.to_map(r), []
        x = self.show[0](resample(shown, self.scales[0]))
        for block, halve, show, scale in zip(self.down, self.halve, self.show[1:], self.scales[1:], strict=True):
            skips.append(block(x))
            x = halve(skips[-1]) + show(resample(shown, scale))
        x = self.middle(x)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            x = block(torch.cat([functional.interpolate(x, skip.shape[2:], mode="nearest"), skip], dim=1))
        drawn: Tensor = self.draw(x)
        return drawn


def resample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(n, c, h, w)`` on another grid: bilinear where it grows, means over areas where it shrinks.

    Example:
        >>> float(resample(torch.arange(4.0).reshape(1, 1, 2, 2), (1, 1)))
        1.5
    """
    grown = (max(size[0], x.shape[2]), max(size[1], x.shape[3]))
    if tuple(x.shape[2:]) != grown:
        x = functional.interpolate(x, grown, mode="bilinear", align_corners=False)
    return x if grown == size else functional.adaptive_avg_pool2d(x, size)


def _scales(height: int, width: int) -> list[tuple[int, int]]:
    """Grids from the picture's to the coarsest, each half of the one before, rounded up as a strided convolution."""
    scales = [(height, width)]
    while len(scales) <= _MOST_HALVINGS and min(scales[-1]) >= 2 * _COARSEST:
        scales.append((-(-scales[-1][0] // 2), -(-scales[-1][1] // 2)))
    return scales
