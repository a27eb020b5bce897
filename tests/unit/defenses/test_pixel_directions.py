"""The directions that show pixels: against ridge regression, closed forms and finite differences."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from splitveil.contracts import FeatureBatch, GaussianChannel, PenaltyContext, Trace, TrainState
from splitveil.defenses.penalties.conditional_entropy import ConditionalEntropy
from splitveil.defenses.penalties.pixel_directions import PixelDirections, shrunk
from splitveil.errors import SpecError
from splitveil.rng import Rng

Q, N = 6, 20_000


def linear_world(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures of four pixels, and features of which the first three mix them; the others show nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) * [3.0, 1.0, 0.5, 0.1]
    mixing = np.random.default_rng(9).normal(size=(4, 3))
    a = np.concatenate([x @ mixing, rng.normal(size=(n, Q - 3))], 1)
    return torch.from_numpy(a).float(), torch.from_numpy(x.reshape(n, 1, 2, 2)).float()


def fitted(noise: float, seed: int = 0) -> tuple[PixelDirections, Tensor, Tensor]:
    a, x = linear_world(seed=seed)
    directions = PixelDirections(Q)
    directions.fit(a, x, torch.full((Q,), noise))
    return directions, a, x


@pytest.mark.parametrize("noise", [0.01, 1.0, 100.0])
def test_what_is_explained_is_what_linear_regression_explains_of_releases(noise: float) -> None:
    directions, a, x = fitted(noise)
    other, pictures = linear_world(seed=1)
    rng = np.random.default_rng(2)
    releases = [held.numpy() + noise**0.5 * rng.normal(size=held.shape) for held in (a, other)]
    reader = Ridge(alpha=1e-6, fit_intercept=False).fit(releases[0], x.flatten(1).numpy())
    left = np.square(reader.predict(releases[1]) - pictures.flatten(1).numpy()).sum(1).mean()
    explained = 1 - left / pictures.flatten(1).square().sum(1).mean()
    assert float(directions.explained) == pytest.approx(float(explained), abs=0.02)


def test_information_is_that_of_each_direction_s_channel() -> None:
    """In the mean over the fitted features, 1/2 ln(1 + snr), weighed by the share."""
    noise = 0.3
    directions, a, _ = fitted(noise)
    covariance = np.cov(a.numpy().T, bias=True) + np.outer(a.mean(0), a.mean(0))
    rows = directions.directions.double().numpy()
    snr = np.einsum("jp,pq,jq->j", rows, covariance, rows) / (noise * np.square(rows).sum(1))
    expected = 0.5 * (directions.share.double().numpy() * np.log1p(snr)).sum()
    assert float(directions.information(a, torch.tensor(noise)).mean()) == pytest.approx(expected, rel=1e-4)


def test_it_bounds_what_a_linear_reader_explains() -> None:
    """Each direction: the share snr / (1 + snr) of its pixels is at most twice the information."""
    for noise in (0.01, 0.3, 10.0):
        directions, a, _ = fitted(noise)
        seen = (a @ directions.directions.T).square().mean(0)  # snr / (1 + snr), as S includes the noise
        information = torch.stack([_alone(directions, j, a, noise) for j in range(Q)])
        assert bool((seen <= 2 * information + 1e-4).all())


def _alone(directions: PixelDirections, j: int, a: Tensor, noise: float) -> Tensor:
    kept = directions.share
    directions.share = torch.eye(Q)[j]
    found = directions.information(a, torch.tensor(noise)).mean()
    directions.share = kept
    return found


def test_directions_without_pixels_have_no_gradient() -> None:
    directions, a, _ = fitted(0.3)
    a = a[:200].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(directions.information(a, torch.tensor(0.3)).mean(), a)
    size = gradient.square().mean(0).sqrt()
    assert float(size[3:].max()) < 0.02 * float(size[:3].min())


def test_more_pixels_weigh_more() -> None:
    rng = Rng(0).generator()
    x = torch.randn(N, 1, 1, 2, generator=rng) * torch.tensor([3.0, 1.0])
    a = torch.cat([x.flatten(1) / torch.tensor([3.0, 1.0]), torch.randn(N, 1, generator=rng)], 1)
    directions = PixelDirections(3)
    directions.fit(a, x, torch.full((3,), 0.5))
    assert directions.share.tolist() == pytest.approx([0.9, 0.1, 0.0], abs=0.01)


def test_where_nothing_shows_above_chance_directions_count_alike() -> None:
    rng = Rng(0).generator()
    directions = PixelDirections(Q)
    a, x = torch.randn(2000, Q, generator=rng), torch.randn(2000, 3, 4, 4, generator=rng)
    directions.fit(a, x, torch.ones(Q))
    assert float(directions.explained) < 1e-3
    assert float(directions.share.max()) < 0.5
    directions.fit(a, torch.zeros_like(x), torch.ones(Q))
    assert directions.share.tolist() == pytest.approx([1 / Q] * Q)
    assert float(directions.explained) == 0
    assert float(directions.information(a, torch.tensor(1.0)).mean()) == pytest.approx(0.5 * math.log(2), abs=0.05)


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.1, 10), noise=st.floats(0.05, 5), seed=st.integers(0, 50))
def test_features_and_noise_that_grow_together_say_the_same(scale: float, noise: float, seed: int) -> None:
    a, x = linear_world(500, seed)
    values = []
    for factor in (1.0, scale):
        directions = PixelDirections(Q)
        directions.fit(factor * a, x, torch.full((Q,), noise * factor**2))
        values.append(float(directions.information(factor * a, torch.tensor(noise * factor**2)).mean()))
    assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_gradients_of_features_and_noise_are_those_of_differences() -> None:
    directions, a, _ = fitted(0.3)
    directions.double()
    a = a[:3].double().requires_grad_()
    noise = torch.linspace(0.1, 0.6, Q, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: directions.information(*given), (a, noise))


def test_wide_features_are_one_error() -> None:
    with pytest.raises(SpecError, match="pass projection=1024, say, or use surrogate 'bound'"):
        PixelDirections(4096)


def test_large_pictures_are_read_small() -> None:
    x = torch.rand(2, 3, 40, 20)
    assert shrunk(x).shape == (2, 3, 32, 20)
    assert torch.equal(shrunk(x[:, :, :32]), x[:, :, :32])


class TestWithinConditionalEntropy:
    """What the penalty hands over: clusters' means, the noise, the pictures of the stream."""

    CLASSES = 2

    def stream(self, pictures: bool = True) -> _Stream:
        a, x = linear_world(2000)
        y = torch.arange(len(a)) % self.CLASSES
        return _Stream(a + 5 * y[:, None], y, x + 7 * y.view(-1, 1, 1, 1) if pictures else None)

    def penalty(self) -> tuple[ConditionalEntropy, _Stream]:
        penalty, stream = ConditionalEntropy(self.CLASSES, Q, clusters=1, surrogate="pixels"), self.stream()
        facts = penalty.on_epoch(stream)
        assert 0.5 < facts["linearly_explained"] < 1
        return penalty, stream

    def term(self, penalty: ConditionalEntropy, z: Tensor, y: Tensor) -> Tensor:
        trace = Trace(z, z, z, z, z, GaussianChannel(z, torch.tensor(0.5)))
        return penalty(trace, PenaltyContext(nn.Identity(), y, TrainState(1, 0, 0.5, 0.01), Rng(0)))[
            "conditional_entropy"
        ]

    def test_it_reads_what_is_around_the_class_means(self) -> None:
        penalty, stream = self.penalty()
        assert stream.x is not None
        expected = PixelDirections(Q)
        mean = torch.stack([stream.z[stream.y == label].mean(0) for label in (0, 1)])
        drawn = torch.stack([stream.x[stream.y == label].mean(0) for label in (0, 1)])
        away = stream.z - mean[stream.y]
        expected.fit(away, stream.x - drawn[stream.y], torch.full((Q,), 0.25))
        value = expected.information(away, torch.tensor(0.25)).mean()
        assert float(self.term(penalty, stream.z, stream.y)) == pytest.approx(float(value), rel=1e-3)

    def test_what_classes_alone_show_costs_nothing(self) -> None:
        penalty, stream = self.penalty()
        mean = torch.stack([stream.z[stream.y == label].mean(0) for label in (0, 1)])[stream.y]
        constant = float(self.term(penalty, mean, stream.y))
        assert constant < float(self.term(penalty, stream.z, stream.y))
        assert math.isfinite(constant)

    def test_it_is_saved(self) -> None:
        penalty, stream = self.penalty()
        other = ConditionalEntropy(self.CLASSES, Q, clusters=1, surrogate="pixels")
        other.load_state_dict(penalty.state_dict())
        assert torch.equal(*(self.term(item, stream.z, stream.y) for item in (penalty, other)))

    def test_features_without_pictures_are_one_error(self) -> None:
        penalty = ConditionalEntropy(self.CLASSES, Q, clusters=1, surrogate="pixels")
        with pytest.raises(SpecError, match="expected the pictures behind the features"):
            penalty.on_epoch(self.stream(pictures=False))


class _Stream:
    """Features of the training set, with or without pictures."""

    classes, rng = 2, Rng(0)

    def __init__(self, z: Tensor, y: Tensor, x: Tensor | None) -> None:
        self.z, self.y, self.x = z, y, x

    @property
    def samples(self) -> int:
        return len(self.z)

    def __iter__(self) -> Iterator[FeatureBatch]:
        for part in torch.arange(len(self.z)).split(128):
            z = self.z[part]
            yield FeatureBatch(
                z, self.y[part], GaussianChannel(z, torch.tensor(0.5)), None if self.x is None else self.x[part]
            )
