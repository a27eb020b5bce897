"""A variational bottleneck: mean and deviation of the noise come out of the features."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec, positive
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["Variational"]

_LEAST_STD = 1e-2  # a deviation that training drives to zero would carry unbounded information


class Variational(Mechanism):
    """``r = mu(z) + sigma(z) n``, n ~ N(0, I): VIB's stochastic encoder behind the head.

    mu and sigma are linear in the channels of each position; mu begins as the identity, sigma at `noise_std`.

    Args:
        spec: of z.
        noise_std: first deviation, feature units, > 0.01.

    Reference:
        Alemi, Fischer, Dillon, Murphy: Deep Variational Information Bottleneck, ICLR 2017.
    """

    def __init__(self, spec: FeatureSpec, noise_std: float = 0.1) -> None:
        super().__init__()
        if positive(noise_std, "noise_std") <= _LEAST_STD:
            raise SpecError(
                f"expected noise_std > {_LEAST_STD:g}, got {noise_std!r}: training lets no deviation fall to that"
            )
        channels = spec.shape[spec.channel_axis]
        self._axis = spec.channel_axis + 1
        self.mean, self.deviation = nn.Linear(channels, channels), nn.Linear(channels, channels)
        with torch.no_grad():
            self.mean.weight.copy_(torch.eye(channels))
            self.mean.bias.zero_()
            self.deviation.weight.mul_(0.1)
            self.deviation.bias.fill_(math.log(math.expm1(noise_std - _LEAST_STD)))  # the inverse of softplus

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> Variational:
        """For features of this spec."""
        with rng.scoped():
            return cls(spec, **params)

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """One standard normal of the shape of z."""
        return (NoiseSpec("variational", z.shape, "standard_normal"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z; noise has no bounded range."""
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` drawn from its Gaussian."""
        channel = self.gaussian_channel(z)
        return channel.mean + channel.std * noises[0].to(z.dtype)

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        """``N(mu(z), diag sigma(z)^2)``."""
        last = z.movedim(self._axis, -1)
        mean = self.mean(last).movedim(-1, self._axis)
        std = functional.softplus(self.deviation(last)) + _LEAST_STD
        return GaussianChannel(mean, std.movedim(-1, self._axis))
