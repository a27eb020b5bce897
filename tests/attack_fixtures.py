"""Subjects and pictures that the tests of the attacks share: small, and known by heart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.subjects import BLACK_BOX_OFFERS, CallableSubject, ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.contracts import FeatureSpec, Inverter, Mechanism, NoiseSource, Subject
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel

PICTURE = (1, 8, 8)
CLASSES = 4
WHITE_BOX = ThreatModel.preset("white_box")
BLACK_BOX = ThreatModel(BLACK_BOX_OFFERS)
PAIRS_ONLY = ThreatModel.preset("pairs_only")
KEY = Rng(3).child("fit")


class Affine(nn.Module):
    """``scale z + shift``: another way to write the same information."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z + self.shift


class Counting:
    """A subject that counts, by itself, the pictures whose releases were computed, and keeps the releases."""

    def __init__(self, inner: Subject) -> None:
        self.inner, self.input_shape, self.release_spec = inner, inner.input_shape, inner.release_spec
        self.offers = inner.offers
        self.released: list[Tensor] = []

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        self.released.append(self.inner.release(x, noise))
        return self.released[-1]

    def combine(self, r: Tensor) -> Tensor:
        return self.inner.combine(r)

    @property
    def count(self) -> int:
        return sum(map(len, self.released))


def smooth(n: int, key: str = "auxiliary", picture: tuple[int, ...] = PICTURE) -> Tensor:
    """Pictures ``(n, c, h, w)``, uint8: a prototype of each class and a smooth variation, classes in turn."""
    generator = Rng(5).child("prototypes").generator()
    prototypes = torch.rand(CLASSES, picture[0], 3, 3, generator=generator)
    variations = torch.rand(n, picture[0], 3, 3, generator=Rng(5).child(key).generator())
    coarse = 0.5 * prototypes[torch.arange(n) % CLASSES] + 0.5 * variations
    return (255 * functional.interpolate(coarse, picture[1:], mode="bilinear")).round().to(torch.uint8)


def table(images: Tensor) -> Pictures:
    """A table of pictures whose classes come in turn."""
    return Pictures(ImageTable(images, torch.arange(len(images)) % CLASSES))


def auxiliary(n: int = 48) -> Pictures:
    return table(smooth(n))


def invertible_head(*after: nn.Module) -> nn.Sequential:
    """``(n, 1, 8, 8)`` to ``(n, 4, 4, 4)``: a rotation of each 2 x 2 block and a sigmoid, so nothing is lost."""
    mixing = nn.Conv2d(1, 4, 2, stride=2)
    with torch.no_grad(), Rng(9).scoped():
        mixing.weight.copy_(nn.init.orthogonal_(torch.empty(4, 4)).reshape(4, 1, 2, 2))
        nn.init.zeros_(mixing.bias)
    return nn.Sequential(mixing, nn.Sigmoid(), *after)


def model(mechanism: Mechanism | None = None, head: nn.Module | None = None) -> SplitModel:
    """An undefended model with an invertible head, unless told otherwise."""
    head = invertible_head() if head is None else head
    with Rng(8).scoped():
        parts = SplitParts(head, nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), PICTURE)
        parts.tail(head(torch.zeros(1, *PICTURE)))  # the lazy layer finds its size
    return SplitModel(parts, Identity() if mechanism is None else mechanism)


def noisy(noise_std: float = 0.1) -> SplitModel:
    return model(Gaussian(noise_std))


def subject(mechanism: Mechanism | None = None, head: nn.Module | None = None) -> ModelSubject:
    return ModelSubject(model(mechanism, head))


def constant_subject(value: Any) -> CallableSubject:
    """A black box whose release is that value everywhere."""
    spec = FeatureSpec.of((2, 4, 4))
    return CallableSubject(lambda x: torch.full((len(x), 2, 4, 4), value), PICTURE, spec)


def view_of(
    attacked: Subject, threat: ThreatModel | None = None, pictures: Pictures | None = None, seed: int = 4
) -> AttackerView:
    """All that the subject offers, unless told otherwise."""
    threat = ThreatModel(attacked.offers) if threat is None else threat
    return AttackerView(attacked, threat, auxiliary=auxiliary() if pictures is None else pictures, rng=Rng(seed))


def budgeted(budget: int | None, threat: ThreatModel = BLACK_BOX, observations: int = 1) -> ThreatModel:
    return ThreatModel(threat.grants, observations=observations, query_budget=budget)


def mse(inverter: Inverter, attacked: Subject, n: int = 128) -> float:
    """Mean squared error on pictures that the attacker never held."""
    x = table(smooth(n, "test")).get(torch.arange(n))[0]
    r = attacked.release(x, SeededNoise(Rng(6).child("test")))
    return float((inverter.invert(r) - x).double().square().mean())
