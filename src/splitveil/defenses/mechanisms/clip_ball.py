"""Clip features to a ball."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from splitveil.contracts import FeatureSpec, Mechanism, positive

__all__ = ["ClipBall"]


class ClipBall(Mechanism):
    """``r = z min(1, C / |z|)``: bounds the l2 norm of all features of a picture together.

    Args:
        radius: C, feature units, > 0.

    Reference:
        Abadi et al.: Deep Learning with Differential Privacy, CCS 2016, algorithm 1 (there of gradients).
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = positive(radius, "radius")

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z, within the range that the ball allows a single value."""
        low, high = (-self.radius, self.radius) if z.range is None else z.range
        low, high = max(min(low, 0.0), -self.radius), min(max(high, 0.0), self.radius)
        return replace(z, range=(low, high))

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` within the ball."""
        norm = z.flatten(1).square().sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny).sqrt()
        return (z.flatten(1) * (self.radius / norm).clamp_max(1.0)).reshape(z.shape)
