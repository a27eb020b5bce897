"""What the card says of differential privacy, and of a ball, for mechanisms whose numbers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitveil.bounds import capacity_ball, capacity_box
from splitveil.bounds.privacy import gaussian_epsilon, laplace_epsilon
from splitveil.certificates.channel import Channel
from splitveil.certificates.information import information_certificates
from splitveil.certificates.privacy import privacy_certificates
from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.defenses.mechanisms.variational import Variational
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

Q = 16
PICTURES = Pictures(ImageTable(torch.arange(4 * Q, dtype=torch.uint8).reshape(4, 1, 4, 4), torch.zeros(4).long()))


def model(*parts: Mechanism) -> SplitModel:
    return SplitModel(SplitParts(nn.Identity(), nn.Flatten(), (1, 4, 4)), Chain(*parts))


def said(*parts: Mechanism, observations: int = 1) -> list[float]:
    made = model(*parts)
    return [item.value for item in privacy_certificates(made, Channel.of(made, PICTURES), observations)]


def test_gaussian_noise_behind_a_box() -> None:
    separation = 0.5 * Q**0.5 / 0.2
    epsilon, rho = said(Clip(0.0, 0.5), Gaussian(0.2))
    assert epsilon == pytest.approx(gaussian_epsilon(1e-5, separation), rel=1e-6)
    assert rho == pytest.approx(separation**2 / 2, rel=1e-6)
    assert said(Clip(0.0, 0.5), Gaussian(0.2), observations=4)[1] == pytest.approx(4 * rho, rel=1e-6)


def test_gaussian_noise_behind_a_ball() -> None:
    assert said(ClipBall(0.3), Gaussian(0.2))[1] == pytest.approx((2 * 0.3 / 0.2) ** 2 / 2, rel=1e-6)
    made = model(ClipBall(0.3), Gaussian(0.2))
    found = {item.name: item.value for item in information_certificates(Channel.of(made, PICTURES), 64)}
    assert found["capacity"] == pytest.approx(capacity_ball(Q, 0.3, 0.2))
    assert found["capacity"] < capacity_box(Q, 0.6, 0.2)


class Amplified(Gaussian):
    """``r = 20 z + s n``, and the box of 20 z, where it says one."""

    only_adds_noise = False

    def __init__(self, noise_std: float, box: tuple[float, float] | None = None) -> None:
        super().__init__(noise_std)
        self.box = box

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return super().forward(20 * z, noises)

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        return replace(super().gaussian_channel(20 * z), box=self.box)


@pytest.mark.parametrize("clip", [Clip(0.0, 1.0), ClipBall(1.0)])
def test_a_clip_bounds_nothing_that_is_scaled_after_it(clip: Mechanism) -> None:
    """The mechanism's own box counts, or there is none; the clip's would make epsilon twenty times too small."""
    assert said(clip, Amplified(0.1, (0.0, 20.0)))[1] == pytest.approx((20 * Q**0.5 / 0.1) ** 2 / 2, rel=1e-6)
    assert said(clip, Amplified(0.1)) == []
    wide = Variational.from_spec(FeatureSpec.of((1, 4, 4)), Rng(0))
    with torch.no_grad():
        wide.mean.weight.fill_(20.0)
        wide.deviation.weight.zero_()
    assert said(clip, wide) == []


class Steep(Mechanism):
    """``r = 20 z``, and a word on its range or none."""

    def __init__(self, high: float | None = None) -> None:
        super().__init__()
        self.high = high

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        return super().output_spec(z) if self.high is None else replace(z, range=(0.0, self.high))

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return 20 * z


def test_a_part_between_clip_and_noise_has_to_say_its_range() -> None:
    assert said(Clip(0.0, 1.0), Steep(), Gaussian(0.1)) == []
    assert said(Clip(0.0, 1.0), Steep(20.0), Gaussian(0.1)) == said(Clip(0.0, 20.0), Gaussian(0.1))
    assert said(Clip(0.0, 1.0), Identity(), Gaussian(0.1)) == said(Clip(0.0, 1.0), Gaussian(0.1))


def test_what_learned_noise_adds_to_every_picture_tells_nothing() -> None:
    learned = LearnedNoise.from_spec(FeatureSpec.of((1, 4, 4)), Rng(0), noise_std=0.2)
    before = said(Clip(0.0, 0.5), learned)
    with torch.no_grad():
        learned.location.add_(torch.linspace(-9, 9, Q).reshape(1, 4, 4))
    assert said(Clip(0.0, 0.5), learned) == before != []


def test_masks_and_noise_after_the_stage_take_nothing_away() -> None:
    assert said(Clip(0.0, 0.5), Gaussian(0.2), Dropout(0.5)) == said(Clip(0.0, 0.5), Gaussian(0.2))


def test_laplace_noise_behind_a_box() -> None:
    assert said(Clip(0.0, 0.5), Laplace(0.2)) == [laplace_epsilon(Q, 0.5, 0.2)]
    assert said(Clip(0.0, 0.5), Laplace(0.2), observations=3) == [3 * laplace_epsilon(Q, 0.5, 0.2)]


def test_laplace_noise_behind_a_ball() -> None:
    """The epsilon is that of the two points of the ball whose densities differ most: opposite, all values alike."""
    radius, scale = 0.3, 0.2
    far = torch.full((Q,), radius / Q**0.5, dtype=torch.float64)
    law = torch.distributions.Laplace(far, scale)
    odds = float((law.log_prob(far) - torch.distributions.Laplace(-far, scale).log_prob(far)).sum())
    assert said(ClipBall(radius), Laplace(scale)) == [pytest.approx(odds, rel=1e-6)]
    draw = torch.randn(2000, 2, Q, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = (radius * draw / draw.norm(dim=2, keepdim=True)).diff(dim=1).abs().sum((1, 2)).max()
    assert float(apart) / scale < odds


def test_nothing_is_said_without_a_clip_or_without_noise() -> None:
    assert said(Laplace(0.2)) == said(Clip(0.0, 0.5)) == said(Gaussian(0.2)) == []
