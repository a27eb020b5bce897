"""Fitted attacks: modules from releases to pictures, whose whole state is buffers and parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitveil.attacks.standardise import Standardise, make_standardise
from splitveil.combining import passed
from splitveil.contracts import FeatureSpec, Inverter
from splitveil.errors import InputError, UnknownNameError
from splitveil.nets.decoders import make_decoder
from splitveil.precision import half_precision

__all__ = [
    "ClassInverter",
    "ConstantInverter",
    "DecoderInverter",
    "FittedInverter",
    "LinearInverter",
    "Standardise",
    "mean_picture",
    "support",
]

READINGS = ("values", "support", "support_of_levels")
_DARKEST = 5e-3  # of the mean picture: a logit of 5.3 that training can still move


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

    @property
    def choices(self) -> dict[str, str]:
        """Further named choices of the constructor."""
        return {}


class DecoderInverter(FittedInverter):
    """``sigmoid(D(standardise(r)) + logit(mean picture))``, D an inversion network.

    A convolutional decoder treats all positions alike, so without the mean picture it would have to find from the
    zero padding where the borders are, and under much noise it would lose to the mean picture itself.

    Args:
        release: spec of r.
        picture: ``(c, h, w)``.
        channels: of the network.
        blocks: of the network.
        architecture: see `splitveil.nets.decoders.make_decoder`.
        standardise: see `splitveil.attacks.standardise.make_standardise`.
        reads: ``values`` of r, or its ``support``: where it is not zero; ``support_of_levels`` where it is not what a
            zero arrives as, see `start_reading`.
    """

    kind = "decoder"
    prior: Tensor
    zero: Tensor

    def __init__(
        self,
        release: FeatureSpec,
        picture: tuple[int, ...],
        *,
        channels: int,
        blocks: int,
        architecture: str = "residual",
        standardise: str = "affine",
        reads: str = "values",
    ) -> None:
        super().__init__(release, picture)
        self.standardise = make_standardise(standardise, release)
        self.net = make_decoder(architecture, release, picture, channels=channels, blocks=blocks)
        self.net.to(memory_format=torch.channels_last)  # a third less time per step, on CPUs too
        self.register_buffer("prior", torch.zeros(picture))
        self._sizes = {"channels": channels, "blocks": blocks}
        if reads not in READINGS:
            raise UnknownNameError("reading", reads, READINGS)
        if reads == "support_of_levels":
            self.register_buffer("zero", torch.zeros(release.shape))
        self._choices = {"architecture": architecture, "standardise": standardise, "reads": reads}

    @property
    def sizes(self) -> dict[str, int]:
        """Channels and blocks of the decoder."""
        return dict(self._sizes)

    @property
    def choices(self) -> dict[str, str]:
        """The network and how releases are rescaled."""
        return dict(self._choices)

    def start_from(self, mean_picture: Tensor) -> None:
        """Set the mean picture ``(c, h, w)`` in [0, 1]."""
        self.prior.copy_(torch.logit(mean_picture, eps=_DARKEST))

    def start_reading(self, zero: Tensor) -> None:
        """Set what a zero arrives as, ``(*r)``, where positions of levels are read."""
        if self._choices["reads"] == "support_of_levels":
            self.zero.copy_(zero)

    def read(self, r: Tensor) -> Tensor:
        """What counts of releases ``(n, *r)``: their values, or 1 where they are not zero, else 0."""
        reads = self._choices["reads"]
        return r if reads == "values" else support(r, self.zero if reads == "support_of_levels" else 0.0)

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures in (0, 1)."""
        standard = self.standardise(self.read(r))
        with half_precision(r.device) if self.training else nullcontext():  # pictures are scored in float32
            logits = self.net.logits(standard)
        return (logits.to(standard) + self.prior).sigmoid()


def support(r: Tensor, zero: Tensor | float = 0.0) -> Tensor:
    """1 where a release is not zero, else 0.

    Args:
        r: ``(n, *r)``.
        zero: ``(*r)``, what a zero arrives as.

    Example:
        >>> support(torch.tensor([0.0, -2.0, 0.5])).tolist()
        [0.0, 1.0, 1.0]
    """
    return passed(r, zero).to(r)


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
