"""Deep image prior: search for the weights of an untrained network that draws the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from splitveil.attacks.channel import KnownChannel
from splitveil.attacks.optimise import trusted_variance
from splitveil.attacks.priors import Prior
from splitveil.attacks.search import Searching, SearchInverter
from splitveil.attacks.view import attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["ImagePrior", "NetworkPrior"]

_SLOPE = 0.2  # of the leaky ReLU
_COARSEST = 4  # the network begins on a grid so many times coarser than the picture


class NetworkPrior(Prior):
    """``x = sigmoid(network_w(noise))``: every row has a network of its own, run as one grouped convolution.

    ```
    noise (C, h/4, w/4) - conv - norm - x2 - conv - norm - resize to (h, w) - conv - norm - conv to c - sigmoid
    ```

    Args:
        picture: ``(c, h, w)``.
        channels: C.
        rng: of the noise, which is the same for all rows.
    """

    def __init__(self, picture: tuple[int, ...], channels: int, rng: Rng) -> None:
        self.picture = picture
        height, width = (max(1, -(-side // _COARSEST)) for side in picture[1:])
        self.sides = [(height, width), (2 * height, 2 * width), tuple(picture[1:]), tuple(picture[1:])]
        self.shapes = [(channels, channels)] * 3 + [(picture[0], channels)]
        self.noise = torch.randn((channels, height, width), generator=rng.generator())

    @property
    def size(self) -> int:
        """Weights of one network."""
        return sum(9 * out * into for out, into in self.shapes)

    def draw(self, w: Tensor) -> Tensor:
        """In (0, 1)."""
        n, start = len(w), 0
        x = self.noise.to(w).repeat(n, 1, 1)[None]
        for number, ((out, into), side) in enumerate(zip(self.shapes, self.sides, strict=True)):
            if tuple(x.shape[-2:]) != tuple(side):
                x = functional.interpolate(x, size=side, mode="bilinear", align_corners=False)
            weights = w[:, start : start + 9 * out * into].reshape(n * out, into, 3, 3)
            start += 9 * out * into
            x = functional.conv2d(x, weights, padding=1, groups=n)
            if number < len(self.shapes) - 1:
                x = functional.leaky_relu(functional.instance_norm(x), _SLOPE)
        return x.reshape(n, *self.picture).sigmoid()

    def energy(self, w: Tensor) -> Tensor:
        """Nothing: the network's shape is the prior."""
        return w.new_zeros(len(w))

    def locate(self, x: Tensor) -> Tensor:
        """There is no network that is known to draw a picture.

        Raises:
            SpecError: always.
        """
        raise SpecError("expected a search without a warm start under the image prior, got one: leave it out")

    def start(self, n: int, generator: torch.Generator, spread: float) -> Tensor:
        """Fresh weights, whatever the spread."""
        parts = [
            torch.randn((n, 9 * out * into), generator=generator) * math.sqrt(2 / (9 * into))
            for out, into in self.shapes
        ]
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class ImagePrior(Attack):
    """``min_w |f(network_w(noise)) - r|^2 / (2 v)``: a convolutional network draws pictures sooner than noise.

    Args:
        channels: of the network.
        steps: of each search; few of them are the regularisation.
        lr: first learning rate, of weights.
        restarts: networks per release; that with the least misfit counts.

    Raises:
        SpecError: a value out of range.

    Reference:
        Ulyanov, Vedaldi, Lempitsky: Deep Image Prior, CVPR 2018.
    """

    name: ClassVar[str] = "image_prior"
    needs: ClassVar[frozenset[Grant]] = frozenset({"weights"})

    needs_auxiliary = False

    channels: int = 32
    steps: int = 300
    lr: float = 1e-2
    restarts: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.steps, self.restarts) < 1 or not 0 < self.lr < math.inf:
            raise SpecError(f"expected channels, steps, restarts >= 1 and lr > 0, got {self}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        channel = KnownChannel.of(held, rng.child("channel"))
        inverter = SearchInverter(
            channel,
            NetworkPrior(held.input_shape, self.channels, rng.child("noise")),
            trusted_variance(channel),
            Searching(self.steps, self.lr, self.restarts),
            rng.child("search"),
            misses=channel.misses,
        )
        inverter.facts = {"steps": self.steps, "restarts": self.restarts}
        return inverter
