"""Add isotropic Gaussian noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from splitveil.bounds.capacity import noise_for_capacity
from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec, positive
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["Gaussian"]


class Gaussian(Mechanism):
    """``r = z + s * n``, n ~ N(0, I).

    Args:
        noise_std: s, feature units, > 0.
    """

    only_adds_noise: ClassVar[bool] = True

    def __init__(self, noise_std: float) -> None:
        super().__init__()
        self.noise_std = positive(noise_std, "noise_std")

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> Gaussian:
        """With noise of `noise_std`, or as much as holds the channel's capacity to `capacity_nats`.

        Raises:
            SpecError: both are given or neither, or a capacity without a clip before the noise.
        """
        given = dict(params)
        nats = given.pop("capacity_nats", None)
        if nats is None:
            return cls(**given)
        if given.get("noise_std") is not None:
            raise SpecError("expected noise_std or capacity_nats, got both: the one decides the other")
        if spec.range is None:
            raise SpecError("expected features that are clipped to a box before capacity_nats, got none: add a clip")
        return cls(noise_for_capacity(spec.numel, spec.range[1] - spec.range[0], nats))

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
