"""A transformer as inverse network: each patch of the picture asks all tokens of the release."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.nets.inversion import PictureDecoder, ResidualBlock, coarse_grid, draw_from_nothing
from splitveil.nets.unet import resample

__all__ = ["TokenDecoder", "TransformerBlock"]

_HEAD_WIDTH = 32
_PIXEL_CHANNELS = 16  # of a drawn patch, before a residual block takes away the seams between patches
_LARGEST_PATCH = 32  # pixels of a side: the coarsest that vision transformers cut a picture into
_POSITION_STD = 0.02


class TransformerBlock(nn.Module):
    """``y = x + attention(LN(x)); y + MLP(LN(y))``, every token sees every other.

    Args:
        width: of a token; heads have 32 values where that divides it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, t, width)`` to the same shape."""
        n, t, width = x.shape
        query, key, value = self.mix(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.merge(seen.transpose(1, 2).reshape(n, t, width))
        refined: Tensor = x + self.shrink(functional.gelu(self.grow(self.norm2(x))))
        return refined


class TokenDecoder(PictureDecoder):
    """Transformer blocks over the release's tokens and one token per patch of the picture, which then draws it.

    ```
    r --[ embed ]-- tokens ------------+
                      | on the grid    v
    patches --------- + ------------ N x [ block ] --[ patches only ]--[ to pixels ]-- RB -- draw -- picture
    ```

    Prefix tokens (class token, registers) are seen by every patch. A map's positions are tokens; a vector is one.

    Args:
        release: spec of r.
        picture: ``(c, h, w)``.
        channels: width of a token.
        blocks: N.

    Raises:
        SpecError: sizes below 1.

    Example:
        >>> net = TokenDecoder(FeatureSpec.of((17, 192), prefix_tokens=1), (3, 32, 32), channels=64, blocks=2)
        >>> net(torch.zeros(2, 17, 192)).shape
        torch.Size([2, 3, 32, 32])

    Reference:
        He, Chen, Xie, Li, Dollar and Girshick 2022 (a decoder of mask tokens).
    """

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, channels: int = 64, blocks: int = 8) -> None:
        super().__init__(picture, channels, blocks)
        self.release = release
        features = release.numel if release.kind == "vector" else release.shape[release.channel_axis]
        tokens = release.numel // features
        self.grid = _grid(release)
        self.patches = _patches(self.grid, (picture[1], picture[2]))
        self.patch = (math.ceil(picture[1] / self.patches[0]), math.ceil(picture[2] / self.patches[1]))
        self.embed = nn.Linear(features, channels)
        self.position = nn.Parameter(_POSITION_STD * torch.randn(tokens, channels))
        self.query = nn.Parameter(_POSITION_STD * torch.randn(math.prod(self.patches), channels))
        self.body = nn.Sequential(*[TransformerBlock(channels) for _ in range(blocks)])
        self.norm = nn.LayerNorm(channels)
        self.to_pixels = nn.Linear(channels, _PIXEL_CHANNELS * math.prod(self.patch))
        self.refine = ResidualBlock(_PIXEL_CHANNELS, _PIXEL_CHANNELS)
        self.draw = draw_from_nothing(_PIXEL_CHANNELS, picture[0])

    def logits(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to what stands before the sigmoid."""
        tokens: Tensor = self.embed(self._tokens(r))
        queries = self.query.expand(len(r), -1, -1)
        if self.grid is not None:
            placed = tokens[:, self.release.prefix_tokens :].transpose(1, 2)
            queries = queries + resample(placed.reshape(len(r), -1, *self.grid), self.patches).flatten(2).transpose(
                1, 2
            )
        x = self.body(torch.cat([tokens + self.position, queries], dim=1))[:, -queries.shape[1] :]
        drawn: Tensor = self.draw(self.refine(self._assemble(self.to_pixels(self.norm(x)))))
        return drawn

    def _tokens(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to ``(n, t, features)``."""
        if self.release.kind == "vector":
            return r.unsqueeze(1)
        return r.movedim(self.release.channel_axis + 1, -1).flatten(1, -2)

    def _assemble(self, drawn: Tensor) -> Tensor:
        """Patches ``(n, patches, values)`` side by side, on the picture's grid."""
        rows, columns = self.patches
        x = drawn.reshape(len(drawn), rows, columns, _PIXEL_CHANNELS, *self.patch).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(len(drawn), _PIXEL_CHANNELS, rows * self.patch[0], columns * self.patch[1])
        return resample(x, (self.picture[1], self.picture[2]))


def _grid(release: FeatureSpec) -> tuple[int, int] | None:
    """Rows and columns of the positions, where they are known."""
    if release.kind != "map" or release.grid is not None:
        return release.grid
    rows, columns = (size for axis, size in enumerate(release.shape) if axis != release.channel_axis)
    return rows, columns


def _patches(grid: tuple[int, int] | None, picture: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches: the release's where it has any, but none larger than 32 nor smaller than a pixel."""
    coarse = coarse_grid(picture)
    if grid is None:
        return coarse
    rows, columns = (
        min(side, places if side <= _LARGEST_PATCH * places else max(places, least))
        for places, least, side in zip(grid, coarse, picture, strict=True)
    )
    return rows, columns
