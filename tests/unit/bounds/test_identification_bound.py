"""From information to a name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import multivariate_normal

from splitveil.bounds import (
    binary_relative_entropy,
    demonstrated_information,
    identification,
    identification_information,
    utility_floor,
)
from splitveil.errors import InputError, SpecError


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(1e-6, 1 - 1e-6))
def test_the_relative_entropy_is_scipys(p: float, q: float) -> None:
    assert binary_relative_entropy(p, q) == pytest.approx(float(rel_entr([p, 1 - p], [q, 1 - q]).sum()), abs=1e-12)


@settings(deadline=None)
@given(st.floats(0, 30), st.integers(2, 10**6))
def test_the_probability_is_the_largest_that_the_information_allows(information: float, gallery: int) -> None:
    p = identification(information, gallery)
    assert 1 / gallery <= p <= 1
    assert binary_relative_entropy(p, 1 / gallery) <= information + 1e-9
    if p < 1 - 1e-6:
        assert binary_relative_entropy(p + 1e-6, 1 / gallery) > information


@settings(deadline=None)
@given(st.floats(0, 30), st.integers(2, 10**6))
def test_it_is_never_looser_than_fano(information: float, gallery: int) -> None:
    """Fano: ``1 - p >= (ln M - I - ln 2) / ln M`` for equally likely pictures."""
    assert identification(information, gallery) <= (information + math.log(2)) / math.log(gallery) + 1e-12


@settings(deadline=None)
@given(st.floats(0.001, 1), st.integers(2, 10**6))
def test_its_inverse_undoes_it(share: float, gallery: int) -> None:
    p = 1 / gallery + share * (1 - 1 / gallery)
    assert identification(identification_information(p, gallery), gallery) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(("gallery", "noise"), [(2, 0.3), (8, 0.7), (50, 0.2)])
def test_no_attacker_beats_it_on_a_channel_whose_information_is_known(gallery: int, noise: float) -> None:
    """A symmetric channel that shows the right one with probability 1 - e, else another: I = kl(1 - e || 1/M)."""
    information = binary_relative_entropy(1 - noise, 1 / gallery)
    assert identification(information, gallery) == pytest.approx(1 - noise, abs=1e-9)


def test_what_a_task_needs() -> None:
    assert utility_floor(0.9, 10) == pytest.approx(1.76, abs=5e-3)
    assert utility_floor(0.1, 10) == utility_floor(0.05, 10) == 0.0
    assert utility_floor(1.0, 10) == pytest.approx(math.log(10))
    assert utility_floor(0.9, 10, largest_share=0.1) == utility_floor(0.9, 10)
    assert utility_floor(0.9, 2, largest_share=0.9) == 0.0
    for share in (0.05, 1.1):
        with pytest.raises(SpecError, match="expected a largest share from 1/10 to 1"):
            utility_floor(0.9, 10, largest_share=share)


def test_what_releases_demonstrate_is_scipys_density_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(7, 3, generator=generator)
    variances = torch.rand(7, 3, generator=generator) + 0.1
    releases = means + variances.sqrt() * torch.randn(7, 3, generator=generator)
    nats, found = demonstrated_information(means, variances, releases, rows=2)
    table = np.array(
        [
            [multivariate_normal(m, np.diag(v)).logpdf(r) for m, v in zip(means, variances, strict=True)]
            for r in releases
        ]
    )
    expected = np.diag(table) - np.logaddexp.reduce(table, axis=1) + math.log(7)
    np.testing.assert_allclose(nats.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(found.numpy(), (table.argmax(1) == np.arange(7)).astype(float))


def test_it_lies_below_the_information_of_a_gaussian_channel_and_near_it_where_that_is_small() -> None:
    generator = torch.Generator().manual_seed(1)
    q, signal, noise = 2, 1.0, 1.0
    means = signal * torch.randn(2000, q, generator=generator)
    releases = means + noise * torch.randn(2000, q, generator=generator)
    nats, _ = demonstrated_information(means, torch.full((q,), noise**2), releases)
    true = 0.5 * q * math.log1p(signal**2 / noise**2)
    error = float(nats.std()) / math.sqrt(len(nats))
    assert abs(float(nats.mean()) - true) < 4 * error
    assert float(nats.amax()) <= math.log(2000) + 1e-9


def test_where_all_pictures_look_alike_nobody_is_found() -> None:
    nats, found = demonstrated_information(torch.zeros(5, 2), torch.ones(2), torch.randn(5, 2))
    np.testing.assert_allclose(nats.numpy(), 0.0, atol=1e-12)
    assert float(found.mean()) == pytest.approx(0.2)


def test_what_cannot_be_meant_is_refused() -> None:
    for call in (lambda: identification(-1.0, 5), lambda: identification(1.0, 1), lambda: utility_floor(0.5, 1)):
        with pytest.raises(SpecError, match="expected"):
            call()
    with pytest.raises(SpecError, match="above chance"):
        identification_information(0.1, 10)
    with pytest.raises(InputError, match="shape"):
        demonstrated_information(torch.zeros(3, 2), torch.ones(2), torch.zeros(4, 2))
