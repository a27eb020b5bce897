"""The bootstrap summary against scipy, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from splitveil.errors import InputError, SpecError
from splitveil.metrics import summary
from splitveil.metrics.summary import summarize
from splitveil.rng import Rng


def skewed(n: int, seed: int = 3) -> torch.Tensor:
    return torch.from_numpy(Rng(seed).numpy().gamma(2.0, 1.0, n))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_agrees_with_scipy(level: float) -> None:
    values = skewed(40)
    found = summarize(values, rng=Rng(0), level=level, resamples=20_000)
    expected = scipy.stats.bootstrap(
        (values.numpy(),),
        np.mean,
        confidence_level=level,
        n_resamples=20_000,
        method="percentile",
        rng=Rng(1).numpy(),
    ).confidence_interval
    # two independent bootstraps of 20,000 differ by about 0.02 standard errors at these quantiles
    tolerance = 0.08 * float(values.std()) / 40**0.5
    assert found.low == pytest.approx(expected.low, abs=tolerance)
    assert found.high == pytest.approx(expected.high, abs=tolerance)
    assert found.mean == pytest.approx(float(values.mean()), rel=1e-12)
    assert (found.level, found.n) == (level, 40)


def test_worst_is_the_least_safe_sample() -> None:
    values = torch.tensor([3.0, 1.0, 5.0, 1.0, 5.0])
    low = summarize(values, rng=Rng(0), safer="higher")
    high = summarize(values, rng=Rng(0), safer="lower")
    assert (low.worst, low.worst_index) == (1.0, 1)
    assert (high.worst, high.worst_index) == (5.0, 2)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(200):
        values = torch.from_numpy(Rng(11).child(trial).numpy().normal(2.0, 3.0, 60))
        found = summarize(values, rng=Rng(12).child(trial), level=0.9, resamples=400)
        hits += found.low <= 2.0 <= found.high
    # binomial with p = 0.9: mean 180, standard deviation 4.2; the percentile interval is a little short at n = 60
    assert 163 <= hits <= 194


def test_chunks_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_CHUNK_DRAWS", 7 * 30)
    assert len(summary._bootstrap_means(skewed(30), Rng(0).generator(), 100)) == 100


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = summarize(torch.full((17,), 0.1), rng=Rng(0))
    assert found.low <= found.mean <= found.high
    assert found.high - found.low < 1e-12


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.0]),
        torch.tensor([]),
        torch.tensor(1.0),
        torch.ones(2, 2),
        torch.tensor([1.0, torch.nan]),
        torch.tensor([1.0, torch.inf]),
    ],
)
def test_values_that_have_no_interval_are_refused(values: torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected"):
        summarize(values, rng=Rng(0))


@pytest.mark.parametrize("change", [{"level": 1.0}, {"level": 0.0}, {"safer": "larger"}, {"resamples": 1}])
def test_settings_that_cannot_be_meant_are_refused(change: dict) -> None:
    with pytest.raises(SpecError):
        summarize(torch.ones(3), rng=Rng(0), **change)
