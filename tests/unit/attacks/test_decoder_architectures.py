"""The decoder attack by its other networks: each wins where it must, and the default is what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_fixtures import CLASSES, KEY, PICTURE, auxiliary, mse, subject, view_of
from splitveil.attacks.controls import ClassMean, MeanImage
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import FeatureSpec
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import UnknownNameError
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

SETTINGS: dict[str, Any] = {"channels": 8, "blocks": 1, "epochs": 8, "batch_size": 32, "lr": 5e-3}
PICTURES = 192


class Patches(nn.Module):
    """``(n, 1, 8, 8)`` to five tokens: the mean picture's patch as prefix, then each 4 x 4 patch, rotated."""

    def __init__(self) -> None:
        super().__init__()
        generator = Rng(1).generator()
        self.rotation: Tensor
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(16, 16, generator=generator))[0])

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(x), 4, 16)
        return torch.cat([patches.mean(1, keepdim=True), patches], dim=1) @ self.rotation


def token_subject() -> ModelSubject:
    spec = FeatureSpec.of((5, 16), prefix_tokens=1)
    with Rng(2).scoped():
        parts = SplitParts(Patches(), nn.Sequential(nn.Flatten(), nn.Linear(80, CLASSES)), PICTURE, feature=spec)
    return ModelSubject(SplitModel(parts, Identity()))


def error(attack: Any, attacked: ModelSubject) -> float:
    return mse(attack.fit(view_of(attacked, pictures=auxiliary(PICTURES)), KEY), attacked)


@pytest.mark.parametrize(("architecture", "width"), [("subpixel", 16), ("unet", 8), ("tokens", 32)])
def test_it_breaks_a_head_that_hides_nothing(architecture: str, width: int) -> None:
    attacked = subject()
    attack = Decoder(**{**SETTINGS, "channels": width, "architecture": architecture})
    assert error(attack, attacked) < 0.5 * error(ClassMean(), attacked)


def test_tokens_are_inverted_by_the_token_decoder() -> None:
    attacked = token_subject()
    attack = Decoder(**{**SETTINGS, "channels": 32, "epochs": 12, "architecture": "tokens"})
    assert error(attack, attacked) < 0.5 * error(ClassMean(), attacked)


@pytest.mark.parametrize("architecture", ["subpixel", "unet", "tokens"])
def test_it_does_not_lose_to_the_mean_picture_where_there_is_nothing_to_learn(architecture: str) -> None:
    attacked = subject(Gaussian(30.0))
    attack = Decoder(**{**SETTINGS, "epochs": 6, "architecture": architecture})
    assert error(attack, attacked) < 1.1 * error(MeanImage(), attacked)


def test_the_default_is_the_papers_network_and_standardisation() -> None:
    assert (Decoder().architecture, Decoder().standardise) == ("residual", "affine")
    given = Decoder(channels=2, blocks=1, epochs=1, batch_size=16)
    named = Decoder(channels=2, blocks=1, epochs=1, batch_size=16, architecture="residual", standardise="affine")
    first, second = (attack.fit(view_of(subject()), KEY) for attack in (given, named))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown decoder architecture 'vit'"):
        Decoder(architecture="vit")  # type: ignore[arg-type]
