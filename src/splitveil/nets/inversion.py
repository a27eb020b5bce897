"""The residual inverse network of the decoder attack, and what all inverse networks share."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError

__all__ = [
    "PictureDecoder",
    "ReleaseMap",
    "ResidualBlock",
    "ResidualDecoder",
    "coarse_grid",
    "doublings",
    "draw_from_nothing",
]

_FEWEST_STEPS = 2  # of the end of the decoder: an upsampling, or a residual block where nothing is left to enlarge


class ResidualBlock(nn.Module):
    """``S(x) + conv(ReLU(BN(conv(ReLU(BN(x))))))``: pre-activation, S the identity or a 1x1 convolution with BN.

    Args:
        channels_in: of x.
        channels_out: of the result.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels_in, h, w)`` to ``(n, channels_out, h, w)``."""
        inner = self.conv1(functional.relu(self.norm1(x)))
        shortcut: Tensor = self.shortcut(x)
        refined: Tensor = self.conv2(functional.relu(self.norm2(inner)))
        return shortcut + refined


class ReleaseMap(nn.Module):
    """Brings a release of any kind onto a map ``(n, channels, *sides)``; both sizes are attributes.

    Args:
        release: spec of r; a vector, and tokens without a grid, get a linear layer.
        channels: behind that layer.
        picture: rows and columns of the picture.
    """

    def __init__(self, release: FeatureSpec, channels: int, picture: tuple[int, int]) -> None:
        super().__init__()
        self.release = release
        self.linear: nn.Linear | None = None
        if release.kind == "map" or (release.kind == "tokens" and release.grid is not None):
            sides = [size for axis, size in enumerate(release.shape) if axis != release.channel_axis]
            self.channels = release.shape[release.channel_axis]
            self.sides = (sides[0], sides[1]) if release.grid is None else release.grid
        else:
            # nothing says where a value lies: a matrix puts all of them on a coarse grid, an eighth of the picture
            self.channels = channels
            self.sides = coarse_grid(picture)
            self.linear = nn.Linear(release.numel, channels * self.sides[0] * self.sides[1])

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to ``(n, channels, *sides)``."""
        if self.linear is not None:
            flat: Tensor = self.linear(r.flatten(1))
            return flat.reshape(-1, self.channels, *self.sides)
        r = r.movedim(self.release.channel_axis + 1, 1)
        if self.release.kind == "tokens":
            r = r[:, :, self.release.prefix_tokens :].reshape(len(r), self.channels, *self.sides)
        return r


def coarse_grid(picture: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of an eighth of the picture, at least 4 where it has as many.

    Example:
        >>> coarse_grid((64, 8))
        (8, 4)
    """
    rows, columns = (max(min(side, 4), side // 8) for side in picture)
    return rows, columns


def draw_from_nothing(channels: int, colours: int) -> nn.Sequential:
    """``conv(ReLU(BN(x)))`` whose convolution starts at zero: before training all releases give the same picture."""
    draw = nn.Conv2d(channels, colours, 3, padding=1)
    for parameter in draw.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), draw)


class PictureDecoder(nn.Module, ABC):
    """An inverse network: releases in, pictures out.

    Args:
        picture: ``(c, h, w)``.
        channels: at least 1.
        blocks: at least 1.

    Raises:
        SpecError: sizes below 1.
    """

    def __init__(self, picture: tuple[int, ...], channels: int, blocks: int) -> None:
        super().__init__()
        if len(picture) != 3 or min(*picture, channels, blocks) < 1:
            raise SpecError(
                f"expected a picture (c, h, w), channels >= 1 and blocks >= 1, got picture {picture}, "
                f"channels {channels}, blocks {blocks}"
            )
        self.picture = (picture[0], picture[1], picture[2])

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)`` in (0, 1)."""
        return self.logits(r).sigmoid()

    @abstractmethod
    def logits(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to what stands before the sigmoid."""


class ResidualDecoder(PictureDecoder):
    """A residual network that reads a release and draws the picture; `res_normN8C64` of the CEM paper's code.

    ```
    r --[ to a map ]-- RB - ReLU - N x [ RB - ReLU ] - u x [ x2 - BN - ReLU ] -[ resize ]- RB to c - sigmoid -- picture
    ```

    u doublings bring the map as near to the picture as they can without passing it; a bilinear resize does the rest.
    Where u < 2, residual blocks stand in for the missing ones.

    Args:
        release: spec of r; a vector, and tokens without a grid, get a linear layer first.
        picture: ``(c, h, w)``.
        channels: C of the residual blocks.
        blocks: N of them.

    Raises:
        SpecError: sizes below 1.

    Example:
        >>> net = ResidualDecoder(FeatureSpec.of((8, 8, 8)), (3, 32, 32))
        >>> sum(parameter.numel() for parameter in net.parameters())
        711539
    """

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, channels: int = 64, blocks: int = 8) -> None:
        super().__init__(picture, channels, blocks)
        self.to_map = ReleaseMap(release, channels, (picture[1], picture[2]))
        steps = doublings(self.to_map.sides, (picture[1], picture[2]))
        body: list[nn.Module] = [ResidualBlock(self.to_map.channels, channels), nn.ReLU()]
        for _ in range(blocks):
            body += [ResidualBlock(channels, channels), nn.ReLU()]
        for _ in range(steps):
            body.append(_upsample(channels))
        body += [ResidualBlock(channels, channels) for _ in range(_FEWEST_STEPS - steps)]
        self.body = nn.Sequential(*body)
        reached = tuple(side * 2**steps for side in self.to_map.sides)
        self.resize = reached != self.picture[1:]
        self.draw = ResidualBlock(channels, picture[0])

    def logits(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to what stands before the sigmoid."""
        x = self.body(self.to_map(r))
        if self.resize:
            x = functional.interpolate(x, self.picture[1:], mode="bilinear", align_corners=False)
        drawn: Tensor = self.draw(x)
        return drawn


def doublings(sides: tuple[int, int], picture: tuple[int, int]) -> int:
    """How often the map can be doubled without passing the picture.

    Example:
        >>> doublings((8, 7), (32, 32))
        2
    """
    ratio = min(picture[0] // sides[0], picture[1] // sides[1])
    return max(ratio, 1).bit_length() - 1


class _Doubling(nn.ConvTranspose2d):
    """The same function as its base, in two fifths of its time on CPUs, as the bias is added apart."""

    bias: nn.Parameter

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``(n, c, h, w)`` to ``(n, c, 2 h, 2 w)``."""
        y = functional.conv_transpose2d(x, self.weight, None, 2, 1, 1)
        return y + self.bias.to(y.dtype)[:, None, None]


def _upsample(channels: int) -> nn.Sequential:
    return nn.Sequential(
        _Doubling(channels),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
