"""Fitted attacks: modules from releases to pictures, whose whole state is buffers and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec, Inverter, check_finite
from splitveil.errors import InputError
from splitveil.nets.inversion import ResidualDecoder

__all__ = [
    "ClassInverter",
    "ConstantInverter",
    "DecoderInverter",
    "FittedInverter",
    "LinearInverter",
    "Standardise",
    "mean_picture",
]

_DARKEST = 5e-3  # of the mean picture: a logit of 5.3 that training can still move
_STD_FLOOR = 1e-6  # of the largest magnitude: below it a channel holds rounding errors of float32 only


class Standardise(nn.Module):
    """``(r - mean) / std`` per channel, fitted on releases: a defense that only shrinks its features gains nothing.

    Args:
        release: spec of r; a vector has one channel per value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, release: FeatureSpec) -> None:
        super().__init__()
        self._axis = release.channel_axis + 1
        shape = [1] * len(release.shape)
        shape[release.channel_axis] = release.shape[release.channel_axis]
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, releases: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation over all rows and positions; dead channels keep a floor.

        Raises:
            InputError: a release that is not finite.
        """
        count, first, second, shift = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
        for r in releases:
            check_finite(r, "a release", "repair the model or its mechanism before it is attacked")
            rows = r.detach().double().movedim(self._axis, 0).flatten(1)
            if count == 0:
                shift = rows.mean(1, keepdim=True)  # near the mean, so that the squares do not cancel
                first = second = torch.zeros_like(shift)
            count += rows.shape[1]
            first = first + (rows - shift).sum(1, keepdim=True)
            second = second + (rows - shift).square().sum(1, keepdim=True)
        mean = first / count
        std = (second / count - mean.square()).clamp_min(0.0).sqrt()
        mean = mean + shift
        floor = _STD_FLOOR * torch.maximum(mean.abs(), std.max())
        std = torch.where(std > floor, std, floor)
        std = torch.where(std > 0, std, torch.ones_like(std))
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.reshape(self.std.shape))

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to the same shape."""
        return (r - self.mean) / self.std


class FittedInverter(Inverter):
    """An inverter that can be stored: its class, its sizes and its state are all there is.

    Args:
        release: spec of r.
        picture: ``(c, h, w)``.
    """

    kind: ClassVar[str]

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...]) -> None:
        super().__init__()
        self.release, self.picture = release, tuple(picture)
        self.facts: dict[str, Any] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """Further integer arguments of the constructor."""
        return {}


class DecoderInverter(FittedInverter):
    """``sigmoid(D(standardise(r)) + logit(mean picture))``, D a residual decoder.

    A convolutional decoder treats all positions alike, so without the mean picture it would have to find from the
    zero padding where the borders are, and under much noise it would lose to the mean picture itself.
    """

    kind = "decoder"
    prior: Tensor

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, channels: int, blocks: int) -> None:
        super().__init__(release, picture)
        self.standardise = Standardise(release)
        self.net = ResidualDecoder(release, picture, channels=channels, blocks=blocks)
        self.net.to(memory_format=torch.channels_last)  # a third less time per step, on CPUs too
        self.register_buffer("prior", torch.zeros(picture))
        self._sizes = {"channels": channels, "blocks": blocks}

    @property
    def sizes(self) -> dict[str, int]:
        """Channels and blocks of the decoder."""
        return dict(self._sizes)

    def start_from(self, mean_picture: Tensor) -> None:
        """Set the mean picture ``(c, h, w)`` in [0, 1]."""
        self.prior.copy_(torch.logit(mean_picture, eps=_DARKEST))

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures in (0, 1)."""
        return (self.net.logits(self.standardise(r)) + self.prior).sigmoid()


class LinearInverter(FittedInverter):
    """``standardise(r) W + b``."""

    kind = "linear"
    weight: Tensor
    bias: Tensor

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...]) -> None:
        super().__init__(release, picture)
        self.standardise = Standardise(release)
        self.register_buffer("weight", torch.zeros(release.numel, math.prod(picture)))
        self.register_buffer("bias", torch.zeros(math.prod(picture)))

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures; may leave [0, 1]."""
        flat: Tensor = self.standardise(r).flatten(1) @ self.weight + self.bias
        return flat.reshape(-1, *self.picture)


class ConstantInverter(FittedInverter):
    """One picture for every release."""

    kind = "constant"
    image: Tensor

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...]) -> None:
        super().__init__(release, picture)
        self.register_buffer("image", torch.zeros(picture))

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to n copies of the picture."""
        return self.image.expand(len(r), *self.picture)


class ClassInverter(FittedInverter):
    """The mean picture of the class whose mean release is nearest."""

    kind = "class"
    images: Tensor
    centres: Tensor

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, classes: int) -> None:
        super().__init__(release, picture)
        self.standardise = Standardise(release)
        self.register_buffer("images", torch.zeros(classes, *picture))
        self.register_buffer("centres", torch.zeros(classes, release.numel))
        self._classes = classes

    @property
    def sizes(self) -> dict[str, int]:
        """The number of classes."""
        return {"classes": self._classes}

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures."""
        return self.images[torch.cdist(self.standardise(r).flatten(1), self.centres).argmin(1)]


def mean_picture(batches: Iterable[Tensor]) -> Tensor:
    """The mean of batches of pictures ``(n, c, h, w)``: ``(c, h, w)``, float32.

    Raises:
        InputError: there is no picture.

    Example:
        >>> float(mean_picture([torch.zeros(3, 1, 1, 1), torch.ones(1, 1, 1, 1)]))
        0.25
    """
    total, count = torch.zeros(()), 0
    for x in batches:
        sums = x.double().sum(0)
        total, count = total.to(sums) + sums, count + len(x)
    if count == 0:
        raise InputError("expected at least one auxiliary picture, got none: enlarge aux_share")
    return (total / count).float()
