"""The interval of a gap: what it covers, what cancels in it, and what the curves do at their edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from splitveil.errors import InputError
from splitveil.metrics.curves import Floats
from splitveil.metrics.tradeoff import Points, TradeOff, delta, paired_delta

ACCURACY = 0.9 - 0.35 * np.linspace(0, 1, 6) ** 1.5
MSE_DB = -25 + 12 * np.linspace(0, 1, 6)


def draw_points(
    rng: np.random.Generator,
    hard: Floats,
    dark: Floats,
    *,
    gap_db: float = 0.0,
    seeds: int = 3,
    seed_db: float = 0.6,
    seed_accuracy: float = 0.01,
) -> Points:
    """Points of a known curve: half of the seeds' variance moves whole curves, half single points.

    `hard`, uniform, and `dark`, of mean 1, are effects ``(n,)`` of the pictures: share them to pair defenses.
    """

    def effect() -> Floats:
        whole = rng.normal(size=(1, seeds)) + rng.normal(size=(len(ACCURACY), seeds))
        return np.asarray(whole / np.sqrt(2))

    accuracy = np.clip(ACCURACY[:, None] + seed_accuracy * effect(), 0, 1)
    error = 10 ** ((MSE_DB[:, None] + gap_db + seed_db * effect()) / 10)
    own = rng.gamma(10, 0.1, size=(*error.shape, len(dark)))
    # the fractional part of a sum of uniforms is uniform, so the expected accuracy is exact
    uniform = (hard + 0.1 * rng.random(own.shape)) % 1
    return Points((uniform < accuracy[..., None]).astype(np.float64), error[..., None] * dark * own)


def two(key: int, *, seeds: int = 3, n: int = 200, gap_db: float = 1.0, **noise: float) -> tuple[Points, Points]:
    """Two defenses on the same pictures."""
    rng = np.random.default_rng(key)
    hard, dark = rng.random(n), rng.gamma(4, 0.25, n)
    points = [draw_points(rng, hard, dark, seeds=seeds, gap_db=gap, **noise) for gap in (0.0, gap_db)]
    return points[0], points[1]


def covered(seeds: int, trials: int, resamples: int, **noise: float) -> float:
    """Share of the intervals that hold the gap of 1 dB."""
    hits = 0
    for key in range(trials):
        found = paired_delta(*two(key, seeds=seeds, **noise), rng=np.random.default_rng(key), resamples=resamples)
        assert found.mse_db is not None
        hits += found.mse_db[0] <= 1.0 <= found.mse_db[1]
    return hits / trials


@pytest.mark.parametrize("seeds", [3, pytest.param(5, marks=pytest.mark.long)])
def test_the_interval_covers_the_known_gap(seeds: int) -> None:
    assert covered(seeds, 100, 60) >= 0.88


def test_the_interval_is_narrow_enough_to_find_a_gap() -> None:
    """Coverage alone is easy: an interval without end has it."""
    for key in range(10):
        points = two(key, seeds=5, n=400, seed_db=0.1, seed_accuracy=0.002)
        found = paired_delta(*points, rng=np.random.default_rng(key), resamples=60)
        assert found.mse_db is not None
        assert found.mse_db[0] > 0.2
        assert found.mse_db[1] - found.mse_db[0] < 1.2


@pytest.mark.long
def test_the_interval_in_accuracy_covers_the_known_gap() -> None:
    """A curve 1 dB higher is wider by its slope: the gap at equal error is the mean over the errors that both have."""
    below, above = (TradeOff.fit(ACCURACY, 10 ** ((MSE_DB + gap) / 10)) for gap in (0.0, 1.0))
    truth = delta(below, above)
    assert truth is not None
    assert truth.accuracy_points is not None
    hits = 0
    for key in range(60):
        found = paired_delta(*two(key), rng=np.random.default_rng(key), resamples=60)
        assert found.accuracy_points is not None
        hits += found.accuracy_points[0] <= truth.accuracy_points <= found.accuracy_points[1]
    assert hits >= 0.88 * 60


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("seed_db", "seed_accuracy"), [(0.0, 0.0), (0.1, 0.002), (0.6, 0.01), (1.5, 0.02)])
def test_the_interval_covers_the_known_gap_whatever_dominates(seeds: int, seed_db: float, seed_accuracy: float) -> None:
    assert covered(seeds, 200, 150, seed_db=seed_db, seed_accuracy=seed_accuracy) >= 0.88


def test_equal_points_have_an_interval_without_width() -> None:
    points, _ = two(0)
    found = paired_delta(points, points, rng=np.random.default_rng(0), resamples=50)
    assert (found.mse_db, found.accuracy_points) == ((0.0, 0.0), (0.0, 0.0))


def test_pairing_cancels_what_pictures_share() -> None:
    rng = np.random.default_rng(0)
    hard, dark, hard_2, dark_2 = rng.random(200), rng.gamma(1, 1, 200), rng.random(200), rng.gamma(1, 1, 200)
    quiet = {"seeds": 1, "seed_db": 0.0, "seed_accuracy": 0.0}
    reference = draw_points(rng, hard, dark, **quiet)  # type: ignore[arg-type]
    widths = []
    for effects in ((hard, dark), (hard_2, dark_2)):
        other = draw_points(rng, *effects, gap_db=1.0, **quiet)  # type: ignore[arg-type]
        limits = paired_delta(reference, other, rng=rng, resamples=200).mse_db
        assert limits is not None
        widths.append(limits[1] - limits[0])
    assert widths[0] < widths[1] / 2


def test_weighted_means_are_those_of_repeated_rows() -> None:
    points, _ = two(1, n=7)
    rng = np.random.default_rng(2)
    seeds, pictures = rng.integers(3, size=(4, 3)), rng.integers(7, size=(4, 7))
    counts = [
        np.array([np.bincount(row, minlength=size) for row in rows]) for rows, size in ((seeds, 3), (pictures, 7))
    ]
    for found, values in zip(points.means(*counts), (points.correct, points.error), strict=True):
        expected = [values[:, s][:, :, n].mean(axis=(1, 2)) for s, n in zip(seeds, pictures, strict=True)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_one_generator_gives_one_summary_and_it_is_json() -> None:
    a, b = (paired_delta(*two(3), rng=np.random.default_rng(5), resamples=30) for _ in range(2))
    assert a == b
    assert json.loads(json.dumps(a.to_json()))["delta"]["mse_db"] == a.delta.mse_db  # type: ignore[union-attr]


def test_chunks_draw_what_one_piece_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws differ, the interval must not by much."""
    points = two(4)
    whole = paired_delta(*points, rng=np.random.default_rng(0), resamples=400)
    monkeypatch.setattr("splitveil.metrics.tradeoff._CHUNK_DRAWS", 1000)
    pieces = paired_delta(*points, rng=np.random.default_rng(0), resamples=400)
    assert pieces.mse_db == pytest.approx(whole.mse_db, rel=0.2)


def test_resamples_without_overlap_are_counted() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((2, 1, 40)) < np.array([0.4, 0.6])[:, None, None]
    far = rng.random((2, 1, 40)) < np.array([0.6, 0.8])[:, None, None]
    error = np.array([0.2, 0.1])[:, None, None] * np.ones((2, 1, 40))
    found = paired_delta(Points(correct.astype(float), error), Points(far.astype(float), error), rng=rng)
    assert 0 < found.overlapping_share < 1


def test_a_gap_of_one_seed_silent_without_the_other_is_still_bounded() -> None:
    """Leaving out one of two seeds leaves curves that do not overlap."""
    line = np.array([0.5, 0.52])[:, None, None]
    picture = (np.arange(100) + 0.5) / 100
    low, high = (picture < line - 0.03).astype(float), (picture < line + 0.07).astype(float)
    error = np.array([0.2, 0.1])[:, None, None] * np.ones((2, 2, 100))
    a, b = Points(np.concatenate((low, high), 1), error), Points(np.concatenate((high, low), 1), error)
    found = paired_delta(a, b, rng=np.random.default_rng(0), resamples=100)
    assert found.delta is not None
    assert found.overlapping_share < 1


def test_degenerate_curves() -> None:
    point = TradeOff.fit([0.5, 0.5], [0.1, 0.1])
    assert (point.accuracy_range, point.mse_db_range) == ((0.5, 0.5), (-10.0, -10.0))
    assert (float(point.mse_db_at(0.5)), float(point.accuracy_at(-10.0))) == (-10.0, 0.5)
    flat = TradeOff.fit([0.4, 0.6], [0.1, 0.1])
    assert float(flat.accuracy_at(-10.0)) == 0.6
    found = delta(flat, TradeOff.fit([0.3, 0.5], [0.1, 0.01]))
    assert found is not None
    assert found.accuracy_points is None


REFUSED: dict[str, Callable[[], Any]] = {
    "knots": lambda: TradeOff((0.6, 0.5), (-10.0, -20.0)),
    "many knots": lambda: TradeOff((0.5,), ()),
    "span": lambda: TradeOff.fit([0.5, 0.6], [0.2, 0.1]).mean_mse_db(0.6, 0.5),
    "nan place": lambda: TradeOff.fit([0.5], [0.2]).mse_db_at(np.nan),
    "percent": lambda: TradeOff.fit([50.0], [0.2]),
    "overlap": lambda: delta(TradeOff.fit([0.5], [0.2]), TradeOff.fit([0.5], [0.2]), np.nan),
    "dtype": lambda: Points(np.ones((1, 1, 2), dtype=int), np.ones((1, 1, 2))),
    "correct": lambda: Points(2 * np.ones((1, 1, 2)), np.ones((1, 1, 2))),
    "only zeros": lambda: Points(np.ones((1, 1, 2)), np.zeros((1, 1, 2))),
    "weights": lambda: two(0)[0].means(np.ones((1, 3)), -np.ones((1, 200))),
    "weights' shape": lambda: two(0)[0].means(np.ones(3), np.ones((1, 200))),
    "weights' rows": lambda: two(0)[0].means(np.ones((2, 3)), np.ones((1, 200))),
    "one picture": lambda: paired_delta(*two(0, n=1), rng=np.random.default_rng(0)),
    "resamples": lambda: paired_delta(*two(0), rng=np.random.default_rng(0), resamples=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected .*, got .*: "):
        REFUSED[name]()


def test_a_gap_at_equal_error_that_few_draws_know_has_no_interval() -> None:
    """Errors of the two touch at one end: about half of the draws have any error in common."""
    rng = np.random.default_rng(0)
    correct = (rng.random(300) < np.array([0.5, 0.7])[:, None, None]).astype(np.float64)
    noise = rng.gamma(4, 0.25, size=(2, 2, 1, 300))
    reference, other = np.array([0.02, 0.01]), np.array([0.05, 0.0205])
    found = paired_delta(
        Points(correct, reference[:, None, None] * noise[0]),
        Points(correct, other[:, None, None] * noise[1]),
        resamples=200,
        rng=rng,
    )
    assert found.mse_db is not None
    assert found.accuracy_points is None
