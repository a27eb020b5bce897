"""Release the features as they are."""

from __future__ import annotations

from torch import Tensor

from splitveil.contracts import FeatureSpec, Mechanism

__all__ = ["Identity"]


class Identity(Mechanism):
    """``r = z``: no protection, the control."""

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z."""
        return z

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` as it came."""
        return z
