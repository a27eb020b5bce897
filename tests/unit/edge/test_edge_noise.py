"""The device's noise: its laws, where it comes from, and what keyed noise does and does not do."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import stats

from splitveil_edge import noise as module
from splitveil_edge.errors import InputError
from splitveil_edge.noise import EntropyNoise, KeyedNoise, shape_noise
from splitveil_edge.passport import NoiseLaw

NORMAL = NoiseLaw("noise", (50, 40), "standard_normal")
UNIFORM = NoiseLaw("noise", (50, 40), "uniform")
X = np.zeros((20, 1, 8, 8), np.float32)
SOURCES = [EntropyNoise(), KeyedNoise(bytes(range(32)))]


def distinct(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 8, 8), np.float32)


def alike(first: np.ndarray, second: np.ndarray) -> float:
    """Share of values that are the same at the same place."""
    return float((first == second).mean())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("law", "cdf"), [(NORMAL, stats.norm.cdf), (UNIFORM, stats.uniform.cdf)])
def test_values_have_their_law(source: EntropyNoise | KeyedNoise, law: NoiseLaw, cdf: object) -> None:
    values = source.draw(law, distinct(20), b"salt").ravel().astype(np.float64)
    assert values.size == 40_000
    # one in a million of sound sources fails
    assert stats.kstest(values, cdf).pvalue > 1e-6
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 6 / np.sqrt(values.size)


def test_the_transform_is_that_of_box_and_muller() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 2000, dtype=np.uint64)
    u = [(int(word) >> 11) / 2**53 + 2.0**-54 for word in words]
    expected = [np.sqrt(-2 * np.log(a)) * np.cos(2 * np.pi * b) for a, b in zip(u[::2], u[1::2], strict=True)]
    got = shape_noise(words.astype("<u8").tobytes(), NoiseLaw("n", (10,), "standard_normal"), 100)
    np.testing.assert_allclose(got.ravel(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("law", ["standard_normal", "uniform"])
@pytest.mark.parametrize("word", [b"\x00", b"\xff"])
def test_the_ends_stay_finite_and_open(law: str, word: bytes) -> None:
    count = 1 if law == "uniform" else 2
    value = shape_noise(word * 8 * count, NoiseLaw("n", (1,), law), 1)  # type: ignore[arg-type]
    assert np.isfinite(value).all()
    if law == "uniform":
        assert 2.0**-25 <= float(value[0, 0]) <= 1.0 - 2.0**-24


def test_the_clamps_are_those_of_training() -> None:
    from splitveil import noise as trained

    assert (module._SMALLEST, module._LARGEST) == (trained._SMALLEST, trained._LARGEST)


def test_entropy_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.urandom

    def urandom(n: int) -> bytes:
        asked.append(n)
        return real(n)

    monkeypatch.setattr(module.os, "urandom", urandom)
    first, second = (EntropyNoise().draw(NORMAL, X, b"") for _ in range(2))
    assert asked == [20 * 2000 * 16] * 2  # 53 bits for each of two uniforms
    assert alike(first, second) < 0.01


def test_keyed_noise_repeats_for_the_very_same_picture_only() -> None:
    source, x = KeyedNoise(b"k" * 16), distinct(3)
    first = source.draw(NORMAL, x, b"salt")
    np.testing.assert_array_equal(first[1:], source.draw(NORMAL, x[1:], b"salt"))  # whatever the batch
    assert alike(first[0], first[1]) < 0.01
    nearly = x.copy()
    nearly[0, 0, 0, 0] = np.nextafter(np.float32(0), np.float32(1))
    assert alike(source.draw(NORMAL, nearly, b"salt")[0], first[0]) < 0.01


def test_keyed_noise_depends_on_secret_passport_and_name() -> None:
    x = distinct(1)
    other = NoiseLaw("other", NORMAL.shape, "standard_normal")
    drawn = [
        KeyedNoise(b"k" * 16).draw(NORMAL, x, b"salt"),
        KeyedNoise(b"K" * 16).draw(NORMAL, x, b"salt"),
        KeyedNoise(b"k" * 16).draw(NORMAL, x, b"other"),
        KeyedNoise(b"k" * 16).draw(other, x, b"salt"),
    ]
    for index, value in enumerate(drawn):
        assert all(alike(value, earlier) < 0.01 for earlier in drawn[:index])


def test_a_short_secret_is_refused_and_none_is_shown() -> None:
    with pytest.raises(InputError, match="at least 16 bytes"):
        KeyedNoise(b"short")
    assert "kkk" not in repr(KeyedNoise(b"k" * 16))
