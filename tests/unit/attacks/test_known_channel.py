"""What a white box expects of a release, for every kind of noise, against the mean and variance of many draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_fixtures import KEY, WHITE_BOX, auxiliary, model, mse, smooth, table, view_of
from splitveil.attacks.channel import KnownChannel, seen, silent_noises
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.linear import Linear
from splitveil.attacks.optimise import Optimise
from splitveil.attacks.subjects import ModelSubject
from splitveil.codecs import QuantisedCodec
from splitveil.contracts import Codec, FeatureSpec, Mechanism, NoiseSpec
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.topk import TopK
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

PAIRS = replace(WHITE_BOX, grants=WHITE_BOX.grants - {"weights", "architecture"})
ADDED: dict[str, Callable[[], Mechanism]] = {
    "gaussian": lambda: Gaussian(0.1),
    "laplace": lambda: Laplace(0.1),
    "two": lambda: Chain(Gaussian(0.1), Gaussian(0.2)),
}
OTHER: dict[str, Callable[[], Mechanism]] = {
    "mask, noise": lambda: Chain(Dropout(0.3), Gaussian(0.05)),
    "noise, clip": lambda: Chain(Gaussian(1.0), Clip(0.0, 1.0)),
}


MASKED: dict[str, Callable[[], Mechanism]] = {
    "mask": lambda: Dropout(0.3),
    "noise, mask": lambda: Chain(Gaussian(0.05), Dropout(0.3)),
    "noise, mostly masked": lambda: Chain(Gaussian(0.05), Dropout(0.7)),
    "laplace, mask": lambda: Chain(Laplace(0.05), Dropout(0.5)),
    "noise, largest": lambda: Chain(Gaussian(0.05), TopK(0.25)),
}


def draws_of(attacked: ModelSubject, x: Tensor, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Mean and variance of releases, of each picture and feature."""
    net, rows = attacked.model, x.repeat_interleave(count, 0)

    with torch.no_grad():
        r = net.simulate(rows, net.draw(SeededNoise(Rng(11).child("many")), len(rows), rows.device))
    r = r.reshape(len(x), count, *r.shape[1:])
    return r.mean(1), r.var(1)


@pytest.mark.parametrize("kind", [*ADDED, *OTHER])
@pytest.mark.parametrize("observations", [1, 4])
def test_it_expects_the_mean_release_and_its_variance(kind: str, observations: int) -> None:
    attacked = ModelSubject(model({**ADDED, **OTHER}[kind]()))
    view = view_of(attacked, replace(WHITE_BOX, observations=observations), auxiliary(64))
    channel = KnownChannel.of(view, KEY)
    if kind in ADDED or observations == 1:  # what several masks hide together is next to nothing
        assert channel.is_additive == (kind in ADDED)
    x = view.auxiliary.get(torch.arange(4))
    mean, variance = draws_of(attacked, x)
    if observations == 1:
        spread = 0.0 if channel.is_additive else float((variance.mean() / (len(channel.draws) // observations)).sqrt())
        missed = float((channel(x) - mean).detach().square().mean().sqrt())
        assert missed < 1.5 * spread + 4 * float(variance.mean().sqrt()) / 4000**0.5
    if kind not in OTHER or observations == 1:  # several masks show more than one
        expected = float(variance.mean()) / observations
        assert float(channel.variance.mean()) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("observations", [1, 4])
def test_behind_a_mask_it_expects_what_the_mask_let_pass(kind: str, observations: int) -> None:
    attacked = ModelSubject(model(MASKED[kind]()))
    view = view_of(attacked, replace(WHITE_BOX, observations=observations), auxiliary(64))
    channel = KnownChannel.of(view, KEY)
    assert not channel.is_additive
    x = view.auxiliary.get(torch.arange(64))
    with torch.no_grad():
        r = torch.cat([seen(view, x, Rng(11).child(number)) for number in range(20)])
        expected = channel(x)
        missed = channel.misses(expected.repeat(20, 1, 1, 1), r)
    torch.testing.assert_close(expected, attacked.model.head(x).detach())
    error = missed[r != 0].square().mean()
    assert float(channel.variance.mean()) == pytest.approx(float(error), rel=0.15, abs=1e-9)
    assert float(missed[r == 0].square().mean()) < (0.0025 if "largest" in kind else 1e-12)


def test_hidden_values_are_no_larger_than_the_least_that_was_kept() -> None:
    channel = KnownChannel.of(view_of(ModelSubject(model(Chain(Gaussian(0.05), TopK(0.25))))), KEY)
    r = torch.zeros(2, 4, 4, 4)
    r[0, 0], r[1, 0] = 0.5, -0.8
    missed = channel.misses(torch.full_like(r, 0.7), r)
    torch.testing.assert_close(missed[0, 0], torch.full((4, 4), 0.2))
    torch.testing.assert_close(missed[0, 1:], torch.full((3, 4, 4), 0.2))
    torch.testing.assert_close(missed[1, 0], torch.full((4, 4), 1.5))
    assert not missed[1, 1:].any()
    masks = Chain(Gaussian(0.05), Dropout(0.5), TopK(0.25))
    assert masks.hidden_within(r) is None, "the first may hide what is larger"
    bare = masks.unmasked()
    assert bare is not None
    assert [spec.name for spec in bare.noise_spec(FeatureSpec.of((4,)))] == ["gaussian_0"]
    assert Chain(Dropout(0.5), Gaussian(0.05)).unmasked() is None, "noise covers the zeros"


@pytest.mark.parametrize("codec", [None, QuantisedCodec(6, -1.1, 1.0)])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_a_search_trusts_what_the_mask_let_pass_and_fills_in_the_rest(rate: float, codec: Codec | None) -> None:
    """Behind an identity a release is the picture with holes: who fills them with the mean picture is beaten."""
    plain = model(Chain(Clip(0.0, 1.0), Gaussian(0.01), Dropout(rate)), nn.Identity())
    attacked = ModelSubject(plain.with_mechanism(plain.mechanism, codec))
    view = view_of(attacked, WHITE_BOX, table(smooth(1024)))
    x = table(smooth(48, "test")).get(torch.arange(48))[0]
    r = attacked.release(x, SeededNoise(Rng(6)))
    mean = view.auxiliary.get(torch.arange(1024)).mean(0)
    copied = torch.where((r - view.zero).abs() > 1e-6, r, mean)
    found = Optimise(steps=200).fit(view, KEY).invert(r)
    assert float((found - x).square().mean()) < 0.1 * float((copied - x).square().mean())


def test_what_it_expects_of_a_picture_does_not_depend_on_its_place_in_the_batch() -> None:
    channel = KnownChannel.of(view_of(ModelSubject(model(Chain(Dropout(0.3), Gaussian(0.1))))), KEY)
    x = auxiliary(8).get(torch.arange(8))[0]
    torch.testing.assert_close(channel(x)[5:], channel(x[5:]))


def test_the_gaussian_stage_alone_is_read_off_exactly() -> None:
    channel = KnownChannel.of(view_of(ModelSubject(model(Gaussian(0.1)))), KEY)
    assert torch.allclose(channel.variance, torch.full(channel.variance.shape, 0.01), atol=1e-9)


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_who_holds_the_weights_does_no_worse_behind_a_mask(rate: float) -> None:
    """Silence, a uniform of one half, lets all or nothing through the mask: it is no release that anybody sees."""
    attacked, pictures = ModelSubject(model(Chain(Gaussian(0.01), Dropout(rate)))), table(smooth(2048))
    view = view_of(attacked, WHITE_BOX, pictures)
    mean = mse(MeanImage().fit(view, KEY), attacked)
    linear = Linear().fit(view, KEY)
    assert linear.facts["moments"] == "simulated releases"
    ignorant = mse(Linear().fit(view_of(attacked, PAIRS, pictures), KEY), attacked)
    assert mse(linear, attacked) < 1.03 * ignorant < 1.03 * mean
    few = mse(MeanImage().fit(view, KEY), attacked, 32)
    searched = mse(Optimise(steps=60).fit(view, KEY), attacked, 32)
    assert searched < (0.9 if rate == 0.2 else 1.05) * few


def test_silence_is_the_median() -> None:
    normal, uniform = silent_noises((NoiseSpec("a", (2,), "standard_normal"), NoiseSpec("b", (3,), "uniform")), 4)
    assert (tuple(normal.shape), tuple(uniform.shape)) == ((4, 2), (4, 3))
    assert not normal.any()
    assert (uniform == 0.5).all()
