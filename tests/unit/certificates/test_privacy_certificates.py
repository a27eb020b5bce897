"""What the card says of differential privacy, and of a ball, for mechanisms whose numbers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitveil.bounds import capacity_ball, capacity_box
from splitveil.bounds.privacy import gaussian_epsilon, laplace_epsilon
from splitveil.certificates.channel import Channel
from splitveil.certificates.information import information_certificates
from splitveil.certificates.privacy import privacy_certificates
from splitveil.contracts import Mechanism
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.nets.parts import SplitParts
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
