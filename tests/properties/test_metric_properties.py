"""What holds for every picture and every set of scores."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.metrics.functional import (
    PSNR_CAP_DB,
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)
from splitveil.metrics.summary import summarize
from splitveil.rng import Rng

SETTINGS = settings(deadline=None, max_examples=30)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 16), st.integers(1, 16))
seeds = st.integers(0, 2**20)
scores = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=40)


def pair(shape: tuple[int, int, int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = Rng(seed).generator()
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


@SETTINGS
@given(sizes, seeds)
def test_each_picture_is_scored_on_its_own(shape: tuple[int, int, int, int], seed: int) -> None:
    a, b = pair(shape, seed)
    for function in (mean_squared_error, peak_signal_to_noise, structural_similarity):
        alone = torch.cat([function(a[i : i + 1], b[i : i + 1]) for i in range(len(a))])
        torch.testing.assert_close(function(a, b), alone, rtol=1e-6, atol=1e-6)


@SETTINGS
@given(sizes, seeds)
def test_scores_are_symmetric_and_in_range(shape: tuple[int, int, int, int], seed: int) -> None:
    a, b = pair(shape, seed)
    for function, low, high in (
        (mean_squared_error, 0.0, 1.0),
        (peak_signal_to_noise, 0.0, PSNR_CAP_DB),
        (structural_similarity, -1.0, 1.0),
    ):
        score = function(a, b)
        torch.testing.assert_close(score, function(b, a))
        assert bool(((score >= low) & (score <= high + 1e-6)).all())


@SETTINGS
@given(sizes, seeds, st.floats(0.1, 0.9))
def test_a_step_towards_the_original_is_never_safer(shape: tuple[int, int, int, int], seed: int, share: float) -> None:
    a, b = pair(shape, seed)
    closer = b + share * (a - b)
    assert bool((mean_squared_error(a, closer) <= mean_squared_error(a, b) + 1e-7).all())
    assert bool((peak_signal_to_noise(a, closer) >= peak_signal_to_noise(a, b) - 1e-4).all())


@SETTINGS
@given(scores, seeds)
def test_a_summary_brackets_its_mean_and_names_its_worst(values: list[float], seed: int) -> None:
    tensor = torch.tensor(values)
    for safer, worst in (("higher", min(values)), ("lower", max(values))):
        found = summarize(tensor, rng=Rng(seed), safer=safer, resamples=50)
        assert min(values) - 1e-9 <= found.low <= found.mean <= found.high <= max(values) + 1e-9
        assert found.worst == worst == values[found.worst_index]
        assert found == summarize(tensor, rng=Rng(seed), safer=safer, resamples=50)


@SETTINGS
@given(scores, seeds, st.floats(0.5, 8.0), st.floats(-10.0, 10.0))
def test_a_summary_moves_with_its_values(values: list[float], seed: int, factor: float, shift: float) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    plain = summarize(tensor, rng=Rng(seed), resamples=50)
    moved = summarize(tensor * factor + shift, rng=Rng(seed), resamples=50)
    for before, after in ((plain.mean, moved.mean), (plain.low, moved.low), (plain.high, moved.high)):
        assert abs(before * factor + shift - after) < 1e-8
