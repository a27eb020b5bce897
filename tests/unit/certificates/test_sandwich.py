"""Attacks against bounds: a certificate that is beaten is violated, an estimate is void, a tight bound is neither."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from splitveil.bounds import Certificate, Estimate
from splitveil.certificates.card import StatementRecord
from splitveil.certificates.recording import record_of
from splitveil.certificates.sandwich import Reached, build_sandwich


def certificate(value: float, relation: str = ">=", quantity: str = "mse", observations: int = 1) -> StatementRecord:
    return record_of(
        Certificate("shannon", quantity, relation, value, "", ("vouched for",), "-", observations)  # type: ignore[arg-type]
    )


def estimate(value: float, low: float) -> StatementRecord:
    return record_of(Estimate("blocks", "mse", ">=", value, "", (), "-", rests_on="pictures", low=low, high=2 * value))


def errors(mean: float, spread: float = 0.01, n: int = 1000, observations: int = 1) -> Reached:
    values = np.random.default_rng(0).normal(size=n)
    values = mean + spread * (values - values.mean()) / values.std()
    return Reached("decoder", "mse", values, observations)


def test_an_attack_above_its_bound_leaves_it_standing() -> None:
    [rung] = build_sandwich([certificate(0.02)], [errors(0.05)])
    assert not rung.violated
    assert rung.ratio == pytest.approx(2.5)
    assert rung.limit == pytest.approx(0.05 + stats.t.ppf(0.999, 999) * 0.01 / np.sqrt(999))


def test_a_mean_just_below_a_tight_bound_is_no_violation_but_a_limit_below_it_is() -> None:
    assert not build_sandwich([certificate(0.0501)], [errors(0.05)])[0].violated
    [rung] = build_sandwich([certificate(0.06)], [errors(0.05)])
    assert rung.violated
    assert rung.kind == "certificate"


def test_an_estimate_is_held_to_its_lower_limit() -> None:
    assert not build_sandwich([estimate(0.06, 0.05)], [errors(0.05)])[0].violated
    assert build_sandwich([estimate(0.06, 0.055)], [errors(0.05)])[0].violated


def test_the_best_attack_is_the_one_that_counts_and_none_that_saw_more_than_the_bound_allows() -> None:
    weak, averaging = errors(0.05), errors(0.001, observations=16)
    assert build_sandwich([certificate(0.02)], [weak, errors(0.04), averaging])[0].reached == pytest.approx(0.04)
    [rung] = build_sandwich([certificate(0.02, observations=16)], [weak, averaging])
    assert rung.reached == pytest.approx(0.001)
    assert rung.violated


def test_upper_bounds_are_held_against_what_was_demonstrated() -> None:
    shown = Reached("channel", "information", np.full(100, 7.8) + np.linspace(-0.1, 0.1, 100))
    held, beaten = (build_sandwich([certificate(value, "<=", "information")], [shown])[0] for value in (10.0, 5.0))
    assert not held.violated
    assert held.ratio == pytest.approx(10 / 7.8)
    assert beaten.violated


def test_bounds_that_nothing_was_tried_against_are_not_in_it() -> None:
    floor = certificate(0.5, ">=", "information")
    assert build_sandwich([floor, certificate(0.1)], [Reached("x", "information", np.ones(5))]) == ()


def test_a_few_pictures_with_a_lower_mean_do_not_hide_the_attack_that_beats_a_bound() -> None:
    few = Reached("few", "mse", np.array([0.002, 0.002, 0.03, 0.003]))
    [rung] = build_sandwich([certificate(0.02)], [errors(0.0099, 0.002), few])
    assert few.mean < 0.0099
    assert rung.violated
    assert rung.attack == "decoder"


@pytest.mark.parametrize("n", [2, 4, 8])
def test_few_errors_seldom_seem_to_beat_a_bound_that_holds(n: int) -> None:
    drawn = 0.05 + 0.01 * np.random.default_rng(n).normal(size=(20_000, n))
    beaten = sum(Reached("decoder", "mse", row).limit(1.0) < 0.05 for row in drawn)
    assert stats.binomtest(beaten, 20_000, 0.001).pvalue > 1e-4


def test_right_answers_alone_do_not_beat_a_bound_just_below_one() -> None:
    always = Reached("decoder", "right among 10", np.ones(50))
    assert not build_sandwich([certificate(0.98, "<=", "right among 10")], [always])[0].violated
    assert build_sandwich([certificate(0.8, "<=", "right among 10")], [always])[0].violated


def test_one_picture_decides_nothing() -> None:
    assert (
        build_sandwich([certificate(0.02)], [errors(0.001, 0.0001), Reached("x", "mse", np.array([0.0]))])[0].n == 1000
    )
    assert build_sandwich([certificate(0.02)], [Reached("x", "mse", np.array([0.0]))]) == ()


def test_who_reads_releases_before_they_are_encoded_says_nothing_of_the_bytes() -> None:
    shown = Reached("channel", "information", np.linspace(7.7, 7.9, 100), before_codec=True)
    payload = certificate(5.0, "<=", "information").model_copy(update={"name": "payload"})
    derived = certificate(0.5, "<=", "information").model_copy(update={"assumptions": ("information by payload",)})
    assert build_sandwich([payload, derived], [shown]) == ()
    [rung] = build_sandwich([certificate(5.0, "<=", "information"), payload], [shown])
    assert rung.violated
