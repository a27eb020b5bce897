"""Keys of randomness, and the sources of noise drawn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from splitveil.contracts import NoiseSpec
from splitveil.noise import EntropyNoise, SeededNoise
from splitveil.rng import Rng

NORMAL = NoiseSpec("noise", (3, 2), "standard_normal")
UNIFORM = NoiseSpec("noise", (3, 2), "uniform")
each_law = pytest.mark.parametrize("spec", [NORMAL, UNIFORM], ids=lambda spec: spec.law)
names = st.lists(st.one_of(st.text(max_size=5), st.integers(-3, 300)), max_size=4)


def cdf(law: str) -> stats.rv_continuous:
    return {"standard_normal": stats.norm.cdf, "uniform": stats.uniform.cdf}[law]


# ------------------------------------------------------------------------------------------------ keys


@settings(deadline=None, max_examples=100)
@given(names, names)
def test_children_compose(first: list[str | int], second: list[str | int]) -> None:
    assert Rng(3).child(*first).child(*second) == Rng(3).child(*first, *second)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 5), names, st.integers(0, 5), names)
def test_different_keys_have_different_numbers(
    seed: int, path: list[str | int], other_seed: int, other_path: list[str | int]
) -> None:
    same = (seed, path) == (other_seed, other_path)
    assert (Rng(seed, tuple(path)).number() == Rng(other_seed, tuple(other_path)).number()) == same


def test_text_and_number_are_different_names() -> None:
    assert Rng(0).child(1).number() != Rng(0).child("1").number()
    assert Rng(0).child("a", "b").number() != Rng(0).child("a, b").number()


@pytest.mark.parametrize("seed", [0, 1, -1, 2**70])
def test_number_fits_a_signed_integer_of_64_bits(seed: int) -> None:
    numbers = [Rng(seed).child("key", index).number() for index in range(200)]
    assert all(0 <= number < 2**63 for number in numbers)
    assert max(numbers) > 2**62


def test_the_numbers_of_a_key_never_change() -> None:
    """A golden value: a change of the derivation would silently change every recorded run."""
    assert Rng(0).number() == 3493790168860947455
    assert Rng(7).child("train", 2).number() == 5843725568611867937


def test_generators_are_fresh_each_time() -> None:
    rng = Rng(0).child("a")
    assert torch.equal(torch.rand(4, generator=rng.generator()), torch.rand(4, generator=rng.generator()))
    assert np.array_equal(rng.numpy().random(4), rng.numpy().random(4))


def test_scoped_restores_the_global_state_and_is_reproducible() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    layers = []
    for _ in range(2):
        with Rng(0).child("init").scoped():
            layers.append(nn.Linear(4, 4))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(layers[0].weight, layers[1].weight)
    with Rng(1).child("init").scoped():
        assert not torch.equal(nn.Linear(4, 4).weight, layers[0].weight)


def test_scoped_restores_the_global_state_after_an_error() -> None:
    def fail() -> None:
        torch.rand(5)
        raise RuntimeError("inside")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), Rng(0).scoped():
        fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_scopes_nest() -> None:
    with Rng(0).scoped():
        expected = torch.rand(2), torch.rand(2)
    with Rng(0).scoped():
        first = torch.rand(2)
        with Rng(1).scoped():
            torch.rand(9)
        assert torch.equal(first, expected[0])
        assert torch.equal(torch.rand(2), expected[1])


# ------------------------------------------------------------------------------------------------ seeded noise


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(0, 200), st.integers(0, 200), st.sampled_from([NORMAL, UNIFORM]))
def test_a_row_depends_on_its_index_alone(start: int, n: int, before: int, spec: NoiseSpec) -> None:
    source = SeededNoise(Rng(5))
    source.draw(spec, before)
    whole = source.draw(spec, start + n)
    part = replace(source, start=start).draw(spec, n)
    assert part.shape == (n, *spec.shape)
    assert part.dtype == torch.float32
    assert torch.equal(part, whole[start:])


@each_law
def test_other_keys_names_and_rows_differ(spec: NoiseSpec) -> None:
    noise = SeededNoise(Rng(0)).draw(spec, 200)
    assert len(torch.unique(noise.flatten(1), dim=0)) == 200
    assert not torch.equal(noise, SeededNoise(Rng(1)).draw(spec, 200))
    assert not torch.equal(noise, SeededNoise(Rng(0)).draw(replace(spec, name="other"), 200))


def test_seeded_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    SeededNoise(Rng(0)).draw(NORMAL, 10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_any_shape_of_a_sample(shape: tuple[int, ...]) -> None:
    for source in (SeededNoise(Rng(0)), EntropyNoise()):
        for n in (0, 1, 65):
            assert source.draw(NoiseSpec("noise", shape, "uniform"), n).shape == (n, *shape)


# ------------------------------------------------------------------------------------------------ laws


@each_law
def test_seeded_noise_has_its_law(spec: NoiseSpec) -> None:
    """Over many keys: one key's p-value says little, but under the law the p-values are uniform."""
    draws = [SeededNoise(Rng(seed)).draw(spec, 500).flatten().double().numpy() for seed in range(60)]
    p_values = [stats.kstest(noise, cdf(spec.law)).pvalue for noise in draws]
    assert stats.kstest(p_values, stats.uniform.cdf).pvalue > 0.01
    assert stats.kstest(np.concatenate(draws), cdf(spec.law)).pvalue > 0.001


@each_law
def test_rows_of_seeded_noise_are_uncorrelated(spec: NoiseSpec) -> None:
    noise = SeededNoise(Rng(2)).draw(spec, 6400).flatten(1).double()
    centred = (noise - noise.mean(dim=0)) / noise.std(dim=0)
    for lag in (1, 64):  # neighbours, and the same place in the next block
        correlation = (centred[lag:] * centred[:-lag]).mean(dim=0)
        assert float(correlation.abs().max()) < 5 / 6400**0.5


@each_law
def test_entropy_noise_has_its_law_and_never_repeats(spec: NoiseSpec) -> None:
    noise, again = EntropyNoise().draw(spec, 5000), EntropyNoise().draw(spec, 5000)
    assert noise.dtype == torch.float32
    assert float((noise == again).double().mean()) < 1e-3
    # the seed cannot be fixed here, so the level is one that will not be met by chance
    assert stats.kstest(noise.flatten().numpy(), cdf(spec.law)).pvalue > 1e-7


@pytest.mark.parametrize("bits", [b"\x00", b"\xff"])
@each_law
def test_the_ends_of_the_entropy_stay_finite(spec: NoiseSpec, bits: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitveil.noise.os.urandom", lambda count: bits * count)
    noise = EntropyNoise().draw(spec, 4)
    assert bool(torch.isfinite(noise).all())
    if spec.law == "uniform":
        assert bool(((noise > 0) & (noise < 1)).all())
        assert bool(torch.isfinite(torch.log1p(-2.0 * (noise - 0.5).abs())).all())
    else:
        assert 5.0 < float(noise.abs().min()) < 10.0


def test_seeded_uniform_noise_stays_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    for edge in (0.0, 1.0 - 2.0**-24):
        monkeypatch.setattr(torch, "rand", lambda shape, generator, edge=edge: torch.full(shape, edge))
        noise = SeededNoise(Rng(0)).draw(UNIFORM, 2)
        assert bool(((noise > 0) & (noise < 1)).all())
        assert bool(torch.isfinite(torch.log1p(-2.0 * (noise - 0.5).abs())).all())
