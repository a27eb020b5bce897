"""The mechanisms of the field against closed forms and other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from splitveil.attacks.observing import observe
from splitveil.attacks.subjects import ModelSubject
from splitveil.bounds import capacity_box
from splitveil.codecs import QuantisedCodec
from splitveil.combining import kept_mean, median
from splitveil.contracts import FeatureSpec, Mechanism
from splitveil.defenses import (
    Defense,
    conditional_entropy,
    gaussian,
    hsic,
    laplace,
    load_defense,
    ressfl,
    sca,
    vib,
)
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.channel_mask import ChannelMask
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.defenses.mechanisms.sparse_coding import SparseCoding
from splitveil.defenses.mechanisms.topk import TopK
from splitveil.defenses.mechanisms.variational import Variational
from splitveil.errors import InputError, SpecError
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel

VECTOR = FeatureSpec.of((12,))


def wire(mechanism: Mechanism, spec: FeatureSpec) -> SplitModel:
    """A mechanism through the one door: its pictures are features."""
    return SplitModel(SplitParts(nn.Identity(), nn.Flatten(), spec.shape, feature=spec), mechanism)


def draw(*shape: int, key: str = "z") -> Tensor:
    return torch.randn(shape, generator=Rng(5).child(key).generator())


@pytest.mark.parametrize(
    ("mechanism", "sample", "combine"),
    [
        (Gaussian(0.1), lambda rng, size: rng.normal(0, 0.1, size), np.mean),
        (Laplace(0.1), lambda rng, size: rng.laplace(0, 0.1, size), np.median),
    ],
    ids=["gaussian", "laplace"],
)
def test_sixteen_releases_gain_what_theory_says(mechanism: Mechanism, sample: object, combine: object) -> None:
    """The variance of 16 releases together is that of the mean, or of the median, of 16 draws by NumPy."""
    model = wire(mechanism, FeatureSpec.of((4000,)))
    x = torch.zeros(4, 4000)
    seen = observe(ModelSubject(model), x, ThreatModel.preset("black_box"), source=SeededNoise, rng=Rng(0).child("one"))
    many = ThreatModel(ThreatModel.preset("black_box").grants, observations=16)
    together = observe(ModelSubject(model), x, many, source=SeededNoise, rng=Rng(0).child("many"))
    draws = sample(np.random.default_rng(0), (100_000, 16))  # type: ignore[operator]
    expected = combine(draws, axis=1).var() / draws.var()  # type: ignore[operator]
    assert float(together.var() / seen.var()) == pytest.approx(expected, rel=0.06)
    assert abs(float(together.mean())) < 4 * float(together.std()) / len(together.flatten()) ** 0.5


def test_the_median_is_better_than_the_mean_for_laplace_noise() -> None:
    """METHODS of the field: 1.5 times at 16 releases, 2 in the limit."""
    releases = wire(Laplace(1.0), FeatureSpec.of((16 * 20_000,))).release(
        torch.zeros(1, 16 * 20_000), noise=SeededNoise(Rng(0))
    )
    stack = releases.reshape(1, 16, 20_000)
    ratio = stack.mean(1).var() / Laplace(1.0).combine(stack).var()
    assert float(ratio) == pytest.approx(1.5, abs=0.1)


def test_masks_hide_what_none_of_them_let_pass() -> None:
    model = wire(Dropout(0.5), FeatureSpec.of((20_000,)))
    many = ThreatModel(ThreatModel.preset("black_box").grants, observations=3)
    x = torch.full((1, 20_000), 0.7)
    r = observe(ModelSubject(model), x, many, source=SeededNoise, rng=Rng(0))
    assert float((r == 0).float().mean()) == pytest.approx(0.5**3, abs=0.01)
    torch.testing.assert_close(r[r != 0], x[r != 0])


class Levels(Mechanism):
    """Rounds, draws nothing, and does not say how its releases combine."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return (8 * z).round() / 8


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((Clip(), Laplace(0.1), Levels()), median),
        ((Clip(), Dropout(0.5), Levels(), Clip()), kept_mean),
        ((Clip(), Laplace(0.1), Chain(Levels(), Clip())), median),
        ((Chain(Laplace(0.1), Levels()), Levels()), median),
        ((Clip(), Gaussian(0.1), Levels()), lambda r: r.mean(1)),
        ((Laplace(0.1), Gaussian(0.1), Levels()), lambda r: r.mean(1)),
        ((Clip(), Gaussian(0.1), TopK(0.5)), kept_mean),
        ((ChannelMask(FeatureSpec.of((4, 3, 3))), Clip()), kept_mean),
        ((Clip(), Levels()), lambda r: r.mean(1)),
    ],
)
def test_a_chain_combines_as_the_last_part_that_makes_releases_differ(
    parts: tuple[Mechanism, ...], expected: Callable[[Tensor], Tensor]
) -> None:
    r = draw(2, 5, 4, 3, 3).relu()
    assert torch.equal(Chain(*parts).combine(r), expected(r))


@pytest.mark.parametrize("kind", ["vector", "tokens"])
def test_sparse_coding_settles_where_the_lasso_does(kind: str) -> None:
    """``argmin 1/2 |z - D a|^2 + threshold |a|_1``, by coordinate descent of scikit-learn."""
    spec = VECTOR if kind == "vector" else FeatureSpec.of((3, 12))
    mechanism = SparseCoding.from_spec(spec, Rng(1), atoms=8, threshold=0.1, iterations=4000).double()
    z = draw(5, *spec.shape).double()
    with torch.no_grad():
        code = mechanism.code(z).reshape(-1, 8).numpy()
        atoms = nn.functional.normalize(mechanism.dictionary, dim=1).numpy()
    lasso = Lasso(alpha=0.1 / 12, fit_intercept=False, max_iter=100_000, tol=1e-12)
    for row, found in zip(z.reshape(-1, 12).numpy(), code, strict=True):
        expected = lasso.fit(atoms.T, row).coef_
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert 0.1 < float((code != 0).mean()) < 0.95


def test_sparse_coding_of_maps_lowers_the_lasso_objective_and_inhibits() -> None:
    spec = FeatureSpec.of((4, 6, 6))
    z = draw(3, *spec.shape)

    def objective(iterations: int) -> float:
        mechanism = SparseCoding.from_spec(spec, Rng(1), atoms=6, threshold=0.1, iterations=iterations, rate=0.05)
        with torch.no_grad():
            code = mechanism.code(z)
            drawn = wire(mechanism, spec).simulate(z, ())
        return float(0.5 * (z - drawn).square().sum() + 0.1 * code.abs().sum())

    steps = [objective(count) for count in (1, 5, 20, 100, 1600)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(objective(3200), rel=5e-3)


def test_by_default_a_preset_draws_features_by_a_few_atoms() -> None:
    """Features as a sigmoid leaves them, rough and smooth; as many atoms as channels, and more."""
    spec, params = FeatureSpec.of((8, 8, 8)), dict(sca().mechanisms[0].params)
    rough = torch.sigmoid(draw(16, *spec.shape))
    smooth = nn.functional.interpolate(torch.sigmoid(draw(16, 8, 2, 2)), (8, 8), mode="bilinear")
    for atoms in (None, 32):
        mechanism = SparseCoding.from_spec(spec, Rng(1), **{**params, "atoms": atoms})
        with torch.no_grad():
            active = [float((mechanism.code(z) != 0).float().mean()) for z in (rough, smooth)]
        assert min(active) > 0.02
        assert max(active) < 0.5


@pytest.mark.parametrize("kind", ["low-pass", "alike", "random"])
@pytest.mark.parametrize("spec", [FeatureSpec.of((8, 8, 8)), FeatureSpec.of((5, 16)), FeatureSpec.of((12,))], ids=str)
def test_no_dictionary_makes_it_swing(kind: str, spec: FeatureSpec) -> None:
    mechanism = SparseCoding.from_spec(spec, Rng(1), threshold=0.05, iterations=400, rate=1.0)
    with torch.no_grad():
        if kind == "low-pass":
            mechanism.dictionary.fill_(1.0)
        elif kind == "alike":
            mechanism.dictionary.copy_(mechanism.dictionary[:1] + 0.01 * mechanism.dictionary)
        z = torch.sigmoid(draw(4, *spec.shape))
        drawn = mechanism(z, ())
    assert float((z - drawn).square().sum()) < float(z.square().sum()), "nothing at all would be nearer"


def test_a_ball_shortens_what_is_longer_and_nothing_else() -> None:
    z = draw(6, 12) * torch.tensor([0.01, 0.1, 0.5, 1, 10, 0]).reshape(-1, 1)
    r = wire(ClipBall(1.5), VECTOR).simulate(z, ())
    lengths = z.norm(dim=1)
    torch.testing.assert_close(r.norm(dim=1), lengths.clamp_max(1.5))
    torch.testing.assert_close(r[lengths < 1.5], z[lengths < 1.5])


def test_a_channel_mask_removes_whole_channels_by_picture_and_learns() -> None:
    spec = FeatureSpec.of((8, 5, 5))
    mechanism = ChannelMask.from_spec(spec, Rng(0), ratio=0.25)
    z = draw(40, *spec.shape) + 2
    r = wire(mechanism, spec).simulate(z, ())
    passed = (r != 0).flatten(2)
    assert torch.equal(passed.any(2), passed.all(2))
    assert passed.any(2).sum(1).tolist() == [6] * 40
    assert len(torch.unique(passed.any(2), dim=0)) > 1
    gradients = torch.autograd.grad(r.square().sum(), list(mechanism.filter.parameters()))
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_learned_noise_has_the_deviation_that_it_says(law: str) -> None:
    mechanism = LearnedNoise.from_spec(VECTOR, Rng(0), noise_std=0.3, law=law)
    with torch.no_grad():
        mechanism.location.copy_(torch.linspace(-1, 1, 12))
    r = wire(mechanism, VECTOR).release(torch.zeros(40_000, 12), noise=SeededNoise(Rng(1)))
    torch.testing.assert_close(r.std(0), mechanism.std.detach(), rtol=0.05, atol=0)
    torch.testing.assert_close(r.mean(0), mechanism.location.detach(), rtol=0, atol=0.01)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 16), st.integers(1, 9), st.integers(1, 4), st.integers(0, 1000))
def test_what_is_packed_is_unpacked(bits: int, q: int, n: int, seed: int) -> None:
    codec, spec = QuantisedCodec(bits, -1.0, 2.0), FeatureSpec.of((q,))
    r = 2 * torch.randn(n, q, generator=Rng(seed).generator())
    data = codec.encode(r)
    assert len(data) == n * -(-bits * q // 8)
    sent = codec.decode(data, spec)
    torch.testing.assert_close(sent, codec.roundtrip(r), rtol=0, atol=1e-6)
    assert float((sent - r.clamp(-1, 2)).abs().max()) <= 1.5 / (2**bits - 1) + 1e-6


def test_rounding_lets_the_gradient_pass_within_the_range() -> None:
    r = torch.tensor([[-0.5, 0.2, 0.9, 1.5]], requires_grad=True)
    (gradient,) = torch.autograd.grad(QuantisedCodec(3).roundtrip(r).sum(), r)
    assert gradient.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="expected a multiple of 2 bytes"):
        QuantisedCodec(4).decode(b"abc", FeatureSpec.of((4,)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Laplace(0.0), "scale"),
        (lambda: Dropout(1.0), "0 < rate < 1"),
        (lambda: ClipBall(-1.0), "radius"),
        (lambda: QuantisedCodec(0), "bits from 1 to 16"),
        (lambda: QuantisedCodec(4, 1.0, 0.0), "low < high"),
        (lambda: ChannelMask(FeatureSpec.of((1, 4, 4))), "at least 2 channels"),
        (lambda: ChannelMask(FeatureSpec.of((4, 4, 4)), 1.0), "0 < ratio < 1"),
        (lambda: SparseCoding(VECTOR, iterations=0), "iterations >= 1"),
        (lambda: LearnedNoise(VECTOR, 0.1, "cauchy"), "unknown law of the noise 'cauchy'"),
        (lambda: Clip(-math.inf, math.inf), "finite low < high for the clip, got low=-inf and high=inf"),
        (lambda: Clip(math.nan, 1.0), "finite low < high for the clip"),
        (lambda: Clip("0", 1.0), "finite low < high for the clip"),  # type: ignore[arg-type]
        (lambda: QuantisedCodec(4, 0.0, math.inf), "finite low < high for the levels"),
        (lambda: gaussian(low=-math.inf, high=math.inf), "finite low < high for the clip"),
        (lambda: laplace(high=math.inf), "finite low < high for the clip"),
        (lambda: Variational(VECTOR, 0.005), "expected noise_std > 0.01, got 0.005"),
        (lambda: Variational(VECTOR, math.nan), "expected noise_std > 0, got nan"),
    ],
)
def test_values_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("defense", "said"),
    [
        (sca(iterations=2.5), "a whole number for iterations of mechanism 'sparse_coding', got 2.5"),  # type: ignore[arg-type]
        (ressfl(channels=2.5), "a whole number for channels of penalty 'adversarial_reconstruction', got 2.5"),  # type: ignore[arg-type]
        (ressfl(pretrain=1.5), "a whole number for pretrain of penalty 'adversarial_reconstruction', got 1.5"),  # type: ignore[arg-type]
        (hsic(pictures="much"), "a number for pictures of penalty 'dependence', got 'much'"),  # type: ignore[arg-type]
        (hsic(pictures=math.nan), "finite pictures, labels >= 0 and not both 0, got nan and 0.5"),
        (hsic(labels=math.inf), "finite pictures, labels >= 0 and not both 0, got 0.5 and inf"),
        (vib(noise_std=0.005), "noise_std > 0.01, got 0.005"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_defense_from_python_with_such_values_is_not_built(defense: Defense, said: str) -> None:
    with pytest.raises(SpecError, match=f"expected {said}"):
        defense.build(FeatureSpec.of((8, 4, 4)), 2, Rng(0), (1, 8, 8))


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-5, 50.0), st.integers(1, 2000))
def test_noise_that_is_asked_for_by_capacity_holds_it(per_dimension: float, q: int) -> None:
    """A card computes the capacity from the noise alone: it must find what was asked for."""
    spec, nats = FeatureSpec.of((q,)), per_dimension * q
    mechanism, _ = gaussian(low=-1.0, high=0.5, capacity_nats=nats).build(spec, 2, Rng(0), (1, 2, 2))
    channel = mechanism.gaussian_channel(torch.zeros(1, q))
    assert channel is not None
    assert capacity_box(q, 1.5, float(channel.std)) == pytest.approx(nats, rel=1e-4)
    together = gaussian(capacity_nats=nats) + conditional_entropy(0.2)
    assert together.mechanisms == gaussian(capacity_nats=nats).mechanisms


@pytest.mark.parametrize("preset", [gaussian, laplace])
def test_a_radius_clips_to_a_ball_in_place_of_the_box(preset: Any) -> None:
    z = 10 * torch.rand(6, *VECTOR.shape, generator=Rng(3).generator())
    mechanism, _ = preset(0.1, radius=2.0).build(VECTOR, 2, Rng(0), (1, 2, 2))
    clip, _ = mechanism.mechanisms
    torch.testing.assert_close(clip(z, ()), 2.0 * z / z.flatten(1).norm(dim=1)[:, None])
    again = load_defense(preset.__name__, preset(0.1, radius=2.0).params)
    assert again.mechanisms == preset(0.1, radius=2.0).mechanisms


def test_noise_is_told_once_and_a_capacity_needs_a_box() -> None:
    with pytest.raises(SpecError, match="noise_std or capacity_nats, got both"):
        gaussian(0.1, capacity_nats=10.0)
    with pytest.raises(SpecError, match="radius or capacity_nats, got both"):
        gaussian(radius=1.0, capacity_nats=10.0)
    with pytest.raises(SpecError, match="low and high or radius, got 0, 2 and 1"):
        gaussian(high=2.0, radius=1.0)
    with pytest.raises(SpecError, match="clipped to a box before capacity_nats"):
        Gaussian.from_spec(VECTOR, Rng(0), capacity_nats=10.0)
