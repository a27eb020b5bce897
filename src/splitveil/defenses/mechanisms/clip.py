"""Clip features to a box."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from splitveil.contracts import FeatureSpec, Mechanism, interval

__all__ = ["Clip"]


class Clip(Mechanism):
    """``r = min(max(z, low), high)``: bounds the features, so that noise after it has a finite capacity.

    Args:
        low: lower edge of the box, feature units, finite.
        high: upper edge of the box, feature units, finite.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.low, self.high = interval(low, high, "the clip")

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z with the box as its range."""
        return replace(z, range=(self.low, self.high))

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` within the box."""
        return z.clamp(self.low, self.high)
