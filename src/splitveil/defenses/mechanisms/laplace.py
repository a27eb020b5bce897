"""Add Laplace noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from splitveil.combining import median
from splitveil.contracts import FeatureSpec, Mechanism, NoiseSpec, positive

__all__ = ["Laplace", "laplace_from_uniform"]


class Laplace(Mechanism):
    """``r = z - b sign(u - 1/2) ln(1 - 2 |u - 1/2|)``, u ~ U(0, 1): noise of the density ``exp(-|n| / b) / (2 b)``.

    Behind a clip to a box of side w it is epsilon-differentially private per release, ``epsilon = q w / b``; see
    `splitveil.bounds.laplace_epsilon` for how to read that.

    Args:
        scale: b, feature units, > 0; the deviation is ``sqrt(2) b``.

    Reference:
        Dwork, McSherry, Nissim, Smith: Calibrating Noise to Sensitivity, TCC 2006.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = positive(scale, "scale")

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """One uniform of the shape of z."""
        return (NoiseSpec("laplace", z.shape, "uniform"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z; noise has no bounded range."""
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with noise."""
        return z + self.scale * laplace_from_uniform(noises[0], z.dtype)

    def combine(self, r: Tensor) -> Tensor:
        """The median: for many releases its variance is half of the mean's."""
        return median(r)


def laplace_from_uniform(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Laplace noise of scale 1 from uniform noise in (0, 1), by the inverse of its distribution.

    It is computed in float32 at least: what bfloat16 rounds to 0 or 1 would become infinite.

    Args:
        u: any shape, float32 or float64.
        dtype: of the noise.

    Example:
        >>> laplace_from_uniform(torch.tensor([0.5]), torch.bfloat16).abs().tolist()
        [0.0]
    """
    centred = u.to(torch.promote_types(dtype, torch.float32)) - 0.5
    return (-centred.sign() * torch.log1p(-2.0 * centred.abs())).to(dtype)
