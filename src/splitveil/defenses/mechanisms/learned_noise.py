"""Add noise whose location and scale are learned (Shredder)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from splitveil.combining import median
from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec, positive
from splitveil.defenses.mechanisms.laplace import laplace_from_uniform
from splitveil.errors import UnknownNameError
from splitveil.rng import Rng

__all__ = ["LearnedNoise", "NoiseLaw"]

NoiseLaw = Literal["gaussian", "laplace"]

_JITTER = 0.02  # of ln s: values that begin alike would learn alike where the network treats them alike


class LearnedNoise(Mechanism):
    """``r = z + mu + s * n``: every value of a release has a location mu and a deviation s of its own.

    Shredder learns tensors of noise, fits a distribution to them, and draws from it when it serves. Here the
    distribution itself is learned, through ``n``, so nothing is lost between training and serving. mu and ln s are
    parameters of the mechanism: they belong to what the optimiser moves. A single deviation has little to do with a
    loss that is the mean of many, so the gradient of each ln s counts sqrt(q) times, q of them there are: as much as
    the rate of the network's weights bears, under the noise of a batch's gradient too.

    Args:
        spec: of z.
        noise_std: first deviation, within some percent, feature units, > 0.
        law: ``gaussian``, or Shredder's ``laplace``, of the same deviation.

    Reference:
        Mireshghallah et al.: Shredder: Learning Noise Distributions to Protect Inference Privacy, ASPLOS 2020.
    """

    only_adds_noise: ClassVar[bool] = True
    no_weight_decay: ClassVar[tuple[str, ...]] = ("location", "log_std")

    def __init__(self, spec: FeatureSpec, noise_std: float = 0.1, law: NoiseLaw = "gaussian") -> None:
        super().__init__()
        if law not in get_args(NoiseLaw):
            raise UnknownNameError("law of the noise", str(law), get_args(NoiseLaw))
        self.law = law
        self.location = nn.Parameter(torch.zeros(spec.shape))
        first = math.log(positive(noise_std, "noise_std"))
        self.log_std = nn.Parameter(first + _JITTER * torch.randn(spec.shape))

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> LearnedNoise:
        """For features of this spec."""
        with rng.scoped():
            return cls(spec, **params)

    @property
    def std(self) -> Tensor:
        """s, ``(*z)``, feature units."""
        held = self.log_std.detach()
        return (held + math.sqrt(self.log_std.numel()) * (self.log_std - held)).exp()

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """One tensor of the shape of z, of the law's source."""
        return (NoiseSpec("learned", z.shape, "standard_normal" if self.law == "gaussian" else "uniform"),)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z; noise has no bounded range."""
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with noise."""
        if self.law == "gaussian":
            noise = noises[0].to(z.dtype)
        else:
            noise = laplace_from_uniform(noises[0], z.dtype) / math.sqrt(2)
        return z + self.location + self.std * noise

    def gaussian_channel(self, z: Tensor) -> GaussianChannel | None:
        """``N(z + mu, diag s^2)``, or None for the law of Laplace."""
        return GaussianChannel(z + self.location, self.std) if self.law == "gaussian" else None

    def combine(self, r: Tensor) -> Tensor:
        """The mean for the Gaussian law, the median for that of Laplace."""
        return r.mean(dim=1) if self.law == "gaussian" else median(r)
