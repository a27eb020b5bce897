"""A plain encoder of any payload: what stands in for a head that nobody can see."""

from __future__ import annotations

import math

from torch import Tensor, nn

from splitveil.contracts import FeatureSpec

__all__ = ["PlainEncoder"]


class PlainEncoder(nn.Module):
    """Two convolutions, a pooling to the release's grid, a bottleneck and a sigmoid; nothing that hides.

    Args:
        picture: ``(c, h, w)``.
        release: the spec to fill; vectors and tokens get a linear layer at the end.
        width: channels.
    """

    def __init__(self, picture: tuple[int, ...], release: FeatureSpec, width: int = 32) -> None:
        super().__init__()
        self.release = release
        grid = _grid(release)
        self.features = nn.Sequential(
            nn.Conv2d(picture[0], width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(grid or (4, 4)),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.end: nn.Module
        if grid is None:
            self.end = nn.Sequential(nn.Flatten(), nn.Linear(16 * width, release.numel))
        else:
            self.end = nn.Conv2d(width, release.numel // math.prod(grid), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, *r)`` in (0, 1)."""
        z: Tensor = self.end(self.features(x)).sigmoid()
        if _grid(self.release) is None:
            return z.reshape(-1, *self.release.shape)
        return z.movedim(1, self.release.channel_axis + 1)


def _grid(release: FeatureSpec) -> tuple[int, int] | None:
    """Height and width of a map; None for anything else."""
    if release.kind != "map":
        return None
    height, width = (size for axis, size in enumerate(release.shape) if axis != release.channel_axis)
    return height, width
