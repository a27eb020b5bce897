"""Drop features at random, at inference too."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from splitveil.combining import kept_mean
from splitveil.contracts import FeatureSpec, Mechanism, NoiseSpec
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import SpecError

__all__ = ["Dropout", "with_zero"]


class Dropout(Mechanism):
    """``r = z * 1[u >= rate]``: a fresh mask for every release, without rescaling; the tail learns what is left.

    Args:
        rate: probability that a value is dropped, 0 < rate < 1.

    Reference:
        He, Zhang, Lee: Attacking and Protecting Data Privacy in Edge-Cloud Collaborative Inference Systems, IEEE IoT
        Journal 2020 (there attacked through the mask, as here).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not (isinstance(rate, (int, float)) and 0 < rate < 1):
            raise SpecError(f"expected 0 < rate < 1 for the share that is dropped, got {rate!r}")
        self.rate = float(rate)

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """One uniform of the shape of z."""
        return (NoiseSpec("mask", z.shape, "uniform"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z, its range widened to 0."""
        return with_zero(z)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with zeros."""
        return z * (noises[0] >= self.rate).to(z.dtype)

    def unmasked(self) -> Mechanism:
        """All of z."""
        return Identity()

    def combine(self, r: Tensor) -> Tensor:
        """The mean of what the masks let pass: m releases leave a share ``rate^m`` hidden."""
        return kept_mean(r)


def with_zero(z: FeatureSpec) -> FeatureSpec:
    """The spec of features that a mask may set to zero."""
    return z if z.range is None else replace(z, range=(min(z.range[0], 0.0), max(z.range[1], 0.0)))
