"""Add isotropic Gaussian noise."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec, positive

__all__ = ["Gaussian"]


class Gaussian(Mechanism):
    """``r = z + s * n``, n ~ N(0, I).

    Args:
        noise_std: s, feature units, > 0.
    """

    def __init__(self, noise_std: float) -> None:
        super().__init__()
        self.noise_std = positive(noise_std, "noise_std")

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """One standard normal of the shape of z."""
        return (NoiseSpec("gaussian", z.shape, "standard_normal"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z; noise has no bounded range."""
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with noise."""
        (noise,) = noises
        return z + self.noise_std * noise.to(z.dtype)

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        """``N(z, s^2 I)``."""
        return GaussianChannel(z, z.new_full((), self.noise_std))
