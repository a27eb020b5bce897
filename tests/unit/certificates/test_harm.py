"""From information to harm: which source serves which gallery, and limits that resamples give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from splitveil.bounds import Certificate, blocks, identification, shannon, undithered, utility_floor
from splitveil.bounds.entropy import gaussian_profile
from splitveil.certificates.harm import (
    accuracy_limit,
    certified_error,
    error_estimates,
    identification_certificates,
    largest_share_limit,
    utility_certificate,
)
from splitveil.errors import SpecError
from splitveil.rng import Rng


def information(name: str, nats: float) -> Certificate:
    confidence = 0.999 if name == "mixture" else 1.0
    return Certificate(name, "information", "<=", nats, "nats", (f"{name} holds",), "-", 4, confidence)


SOURCES = [information("payload", 900.0), information("capacity", 5.0), information("mixture", 3.0)]


def test_any_gallery_has_the_capacity_and_those_of_the_population_the_tightest() -> None:
    found = identification_certificates(SOURCES, [100, 10_000])
    values = {(item.quantity, item.assumptions[-1]): item.value for item in found}
    assert values == {
        (f"right among {gallery}", f"information by {name}"): identification(nats, gallery)
        for gallery in (100, 10_000)
        for name, nats in (("capacity", 5.0), ("mixture", 3.0))
    }
    for item in found:
        drawn = "drawn from the population" in item.assumptions[-2]
        assert drawn == item.assumptions[-1].endswith("mixture")
        assert item.observations == 4


def test_where_the_capacity_is_the_tightest_it_is_said_once() -> None:
    assert len(identification_certificates(SOURCES[:2], [100])) == 1


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 10), (60, 100), (100, 100)])
def test_the_limit_of_an_accuracy_is_the_one_under_which_so_many_right_are_rare(right: int, n: int) -> None:
    low = accuracy_limit(right, n, 0.99)
    assert 0 <= low <= right / n
    if right:
        assert float(binom.sf(right - 1, n, low)) == pytest.approx(0.01, rel=1e-6)


def test_what_the_task_needs_is_a_lower_bound() -> None:
    found = utility_certificate(0.5, 0.1, 10, 0.999, 1000)
    assert (found.relation, found.value) == (">=", utility_floor(0.5, 10))
    assert (
        utility_certificate(0.5, 0.4, 10, 0.999, 1000).value == utility_floor(0.5, 10, largest_share=0.4) < found.value
    )


def test_who_names_the_most_frequent_class_needs_no_information() -> None:
    """Nine in ten pictures are of one class: whoever says so without a look is right as often."""
    labels = (torch.arange(1000) % 10 == 0).long()
    low, most = accuracy_limit(900, 1000, 0.9995), largest_share_limit(labels, 2, 0.9995)
    assert low < 0.9 < most
    assert utility_certificate(low, most, 2, 0.999, 1000).value == 0.0


@pytest.mark.parametrize(("shares", "n"), [((0.5, 0.5), 40), ((0.2, 0.3, 0.5), 200)])
def test_the_limit_of_the_largest_share_holds_in_all_but_so_many_samples(shares: tuple[float, ...], n: int) -> None:
    drawn = np.random.default_rng(0).choice(len(shares), p=shares, size=(2000, n))
    limits = [largest_share_limit(torch.from_numpy(labels), len(shares), 0.95) for labels in drawn]
    assert np.mean(np.array(limits) < max(shares)) < 0.05


def test_estimates_are_those_of_the_pure_functions_with_limits_around_them() -> None:
    profile = gaussian_profile(np.random.default_rng(0).normal(size=(800, 6)) * 0.2)
    found = {item.name: item for item in error_estimates(SOURCES[2], [profile], Rng(0))}
    assert found["shannon"].value == pytest.approx(undithered(shannon(profile.total_nats, 3.0, 6)))
    assert found["blocks"].value == pytest.approx(undithered(blocks(profile.nats, profile.sizes, 3.0)))
    for item in found.values():
        assert item.low is not None
        assert item.high is not None
        assert item.low < item.value < item.high
        assert item.high - item.low < item.value
        assert "entropy of pictures" in item.rests_on


def test_an_entropy_that_the_user_vouches_for_makes_a_certificate_and_is_named() -> None:
    entropy = 0.5 * 6 * math.log(2 * math.pi * math.e * 0.04)
    found = certified_error(SOURCES[2], entropy, 6)
    assert isinstance(found, Certificate)
    assert found.value == pytest.approx(undithered(0.04 * math.exp(-1.0)))
    assert any("as the user says" in text for text in found.assumptions)


def test_no_pictures_have_more_entropy_than_uniform_pixels() -> None:
    most = 6 * math.log(256 / 255)
    assert certified_error(SOURCES[2], 0.999 * most, 6).value < 0.26
    for entropy in (1.001 * most, math.nan, 3000.0):
        with pytest.raises(SpecError, match="scaled to"):
            certified_error(SOURCES[2], entropy, 6)
