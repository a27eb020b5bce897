"""A small generator of pictures and its critic, for attacks that search among pictures of one kind."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from splitveil.errors import SpecError

__all__ = ["Critic", "Generator"]

_COARSE = 4  # side of the first map, as far as the picture has one


class Generator(nn.Module):
    """Latent to picture, with an opening in the middle.

    ```
    w --[ linear ]-- (2C, 4, 4) - x2 - conv 2C -(+ offset)- x2 - conv C - ... [ resize ] - conv to c - sigmoid
    ```

    Args:
        picture: ``(c, h, w)``.
        latent: dimensions of w.
        channels: C.

    Raises:
        SpecError: sizes below 1.

    Example:
        >>> import torch
        >>> Generator((3, 32, 32), latent=16, channels=8)(torch.zeros(2, 16)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, picture: tuple[int, ...], *, latent: int, channels: int) -> None:
        super().__init__()
        if min(latent, channels) < 1:
            raise SpecError(f"expected latent and channels >= 1, got {latent} and {channels}")
        self.picture, self.latent = picture, latent
        side = min(picture[1:])
        doublings = max(1, math.ceil(math.log2(max(side / _COARSE, 2))))
        self.first = nn.Linear(latent, 2 * channels * _COARSE**2)
        self.early = _Up(2 * channels, 2 * channels)
        widths = [2 * channels] + [channels] * (doublings - 1)
        self.late = nn.ModuleList(_Up(into, out) for into, out in pairwise(widths))
        self.draw = nn.Conv2d(widths[-1], picture[0], 3, padding=1)
        self.opening: tuple[int, int, int] = (2 * channels, 2 * _COARSE, 2 * _COARSE)
        """Shape of the map that `finish` begins with."""

    def begin(self, w: Tensor) -> Tensor:
        """``(n, latent)`` to the map in the middle."""
        x: Tensor = self.early(self.first(w).reshape(len(w), -1, _COARSE, _COARSE))
        return x

    def finish(self, x: Tensor) -> Tensor:
        """The map in the middle to pictures in (0, 1)."""
        for block in self.late:
            x = block(x)
        if tuple(x.shape[2:]) != tuple(self.picture[1:]):
            x = functional.interpolate(x, self.picture[1:], mode="bilinear", align_corners=False)
        drawn: Tensor = self.draw(x).sigmoid()
        return drawn

    def forward(self, w: Tensor) -> Tensor:
        """``(n, latent)`` to ``(n, c, h, w)`` in (0, 1)."""
        return self.finish(self.begin(w))


class _Up(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, padding=1)
        self.norm = nn.GroupNorm(1, out)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return functional.leaky_relu(self.norm(self.conv(x)), 0.2)


class Critic(nn.Module):
    """Picture to a score that is high for real ones: strided convolutions with spectral norm.

    Args:
        picture: ``(c, h, w)``.
        channels: of the first convolution.

    Reference:
        Miyato et al.: Spectral Normalization for GANs, ICLR 2018.
    """

    def __init__(self, picture: tuple[int, ...], *, channels: int) -> None:
        super().__init__()
        height, width, into = *picture[1:], picture[0]
        layers: list[nn.Module] = []
        out = channels
        while min(height, width) >= 2 * _COARSE:
            layers += [spectral_norm(nn.Conv2d(into, out, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            height, width, into, out = height // 2, width // 2, out, 2 * out
        layers += [spectral_norm(nn.Conv2d(into, out, 3, padding=1)), nn.LeakyReLU(0.2), nn.Flatten()]
        self.score = nn.Sequential(*layers, spectral_norm(nn.Linear(out * height * width, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1] to ``(n,)``."""
        scores: Tensor = self.score(2 * x - 1)
        return scores.squeeze(1)
