"""The mixture of features: its statistics are those of the samples that are assigned to each component."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.errors import InputError, SpecError
from splitveil.mixtures import ClassMixture
from splitveil.rng import Rng

each_covariance = pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
Covariance = Literal["isotropic", "diagonal"]


def features(seed: int, n: int, classes: int, q: int) -> tuple[Tensor, Tensor]:
    """Features whose place and spread depend on class and dimension, float64; classes of different sizes."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.ones(classes))
    y = rng.permutation(np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=share)]))
    spread = np.exp(rng.normal(size=(classes, q)))
    z = rng.normal(size=(classes, q))[y] * 2.0 + spread[y] * rng.normal(size=(n, q))
    return torch.from_numpy(z), torch.from_numpy(y)


def fitted(
    z: Tensor, y: Tensor, classes: int, clusters: int, covariance: Covariance, iterations: int = 50
) -> ClassMixture:
    mixture = ClassMixture(classes, clusters, z.shape[1], covariance)
    mixture.fit(z, y, Rng(0), iterations=iterations)
    return mixture


@each_covariance
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 2, 50]))
def test_statistics_are_those_of_the_assigned_samples(
    covariance: Covariance, seed: int, classes: int, clusters: int, iterations: int
) -> None:
    """However early Lloyd's algorithm stops: shares, and second moments around the centroids."""
    q, n = 3, 80
    z, y = features(seed, n, classes, q)
    mixture = fitted(z, y, classes, clusters, covariance, iterations)
    component = mixture.component(z, y).numpy()
    for index in range(classes * clusters):
        label, cluster = divmod(index, clusters)
        members = z.numpy()[component == index]
        assert float(mixture.weights[label, cluster]) == pytest.approx(len(members) / n)
        if not len(members):
            continue
        assert set(y.numpy()[component == index]) == {label}
        moment = ((members - mixture.centroids[label, cluster].numpy()) ** 2).mean(0)
        if covariance == "isotropic":
            moment = moment.mean(keepdims=True)
        np.testing.assert_allclose(mixture.variances[label, cluster].numpy(), moment, rtol=1e-9, atol=1e-12)


@each_covariance
def test_a_converged_mixture_has_the_moments_of_numpy(covariance: Covariance) -> None:
    z, y = features(3, 400, 3, 4)
    mixture = fitted(z, y, 3, 2, covariance, iterations=500)
    for _ in range(5):  # each fit starts from the last, so that its stopping rule has no say
        mixture.fit(z, y, Rng(0), iterations=500)
    component = mixture.component(z, y).numpy()
    for index in range(6):
        members = z.numpy()[component == index]
        np.testing.assert_allclose(mixture.centroids.view(6, 4)[index].numpy(), members.mean(0), atol=1e-2)
        expected = members.var(0) if covariance == "diagonal" else [members.var(0).mean()]
        np.testing.assert_allclose(mixture.variances.view(6, -1)[index].numpy(), expected, rtol=1e-2)


@each_covariance
def test_one_cluster_has_mean_variance_and_share_of_its_class(covariance: Covariance) -> None:
    z, y = features(1, 300, 4, 5)
    mixture = fitted(z, y, 4, 1, covariance)
    for label in range(4):
        own = z[y == label].numpy()
        np.testing.assert_allclose(mixture.centroids[label, 0].numpy(), own.mean(0), rtol=1e-10)
        expected = own.var(0) if covariance == "diagonal" else [own.var(0).mean()]
        np.testing.assert_allclose(mixture.variances[label, 0].numpy(), expected, rtol=1e-10)
        assert float(mixture.weights[label, 0]) == pytest.approx(len(own) / 300)


def test_weights_sum_to_one_over_all_components() -> None:
    z, y = features(5, 500, 6, 3)
    mixture = fitted(z.float(), y, 6, 3, "diagonal")
    assert float(mixture.weights.sum()) == pytest.approx(1.0, abs=1e-6)
    shares = np.bincount(y.numpy(), minlength=6) / 500
    np.testing.assert_allclose(mixture.weights.sum(1).numpy(), shares, atol=1e-6)


@pytest.mark.parametrize(("covariance", "width"), [("isotropic", 1), ("diagonal", 3)])
def test_shapes(covariance: Covariance, width: int) -> None:
    mixture = ClassMixture(4, 2, 3, covariance)
    assert not bool(mixture.fitted)
    shapes = {name: tuple(value.shape) for name, value in mixture.state_dict().items()}
    expected = {"centroids": (4, 2, 3), "variances": (4, 2, width), "weights": (4, 2), "fitted": ()}
    assert shapes == expected
    z, y = features(0, 40, 4, 3)
    mixture.fit(z, y, Rng(0))
    assert {name: tuple(value.shape) for name, value in mixture.state_dict().items()} == expected
    assert bool(mixture.fitted)


def test_empty_clusters_have_no_weight_and_no_members() -> None:
    """Two distinct features and four clusters; a new sample that lies on an empty cluster goes to an occupied one."""
    points = torch.tensor([[0.0, 0.0], [4.0, 4.0]], dtype=torch.float64)
    z = points.repeat(5, 1)
    mixture = fitted(z, torch.zeros(10, dtype=torch.int64), 1, 4, "diagonal")
    occupied = mixture.weights[0] > 0
    assert int(occupied.sum()) == 2
    state = mixture.state_dict()
    state["centroids"] = torch.where(occupied[:, None], mixture.centroids[0], torch.full((2,), 2.0))[None]
    mixture.load_state_dict(state)
    found = mixture.component(
        torch.tensor([[2.0, 2.0], [1.9, 1.9], [2.1, 2.1]], dtype=torch.float64), torch.zeros(3).long()
    )
    assert bool(occupied[found].all())
    assert bool(torch.isfinite(mixture.variances).all())


def test_an_empty_cluster_can_be_filled_again() -> None:
    y = torch.zeros(20, dtype=torch.int64)
    mixture = fitted(torch.zeros(20, 2), y, 1, 2, "diagonal")
    assert sorted(mixture.weights.flatten().tolist()) == [0.0, 1.0]
    state = mixture.state_dict()
    state["centroids"] = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])
    state["weights"] = torch.tensor([[1.0, 0.0]])
    mixture.load_state_dict(state)
    z = torch.zeros(20, 2)
    z[:5] = 8.0
    mixture.fit(z, y, Rng(0))
    assert mixture.weights.tolist() == [[0.75, 0.25]]
    assert mixture.centroids.tolist() == [[[0.0, 0.0], [8.0, 8.0]]]


def test_a_second_fit_starts_from_the_first() -> None:
    """The key decides a first fit only; from a start that is a fixed point, nothing moves."""
    z, y = features(2, 200, 2, 3)
    mixture = fitted(z, y, 2, 4, "diagonal", iterations=300)
    mixture.fit(z, y, Rng(0), iterations=300)
    state = {name: value.clone() for name, value in mixture.state_dict().items()}
    mixture.fit(z, y, Rng(99), iterations=1)
    for _ in range(3):
        mixture.fit(z, y, Rng(99), iterations=300)
    fresh = ClassMixture(2, 4, 3)
    fresh.fit(z, y, Rng(99), iterations=300)
    assert float((mixture.centroids - state["centroids"]).abs().max()) < 0.1
    assert float((fresh.centroids - state["centroids"]).abs().max()) > 0.1


def test_the_key_alone_decides() -> None:
    z, y = features(2, 200, 2, 3)
    first, again = fitted(z, y, 2, 4, "diagonal", 2), fitted(z, y, 2, 4, "diagonal", 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    other = ClassMixture(2, 4, 3)
    other.fit(z, y, Rng(1), iterations=2)
    assert not torch.equal(other.centroids, first.centroids)


@each_covariance
def test_saved_and_loaded(covariance: Covariance) -> None:
    z, y = (value for value in features(4, 120, 3, 4))
    mixture = fitted(z.float(), y, 3, 2, covariance)
    loaded = ClassMixture(3, 2, 4, covariance)
    loaded.load_state_dict(mixture.state_dict())
    assert bool(loaded.fitted)
    assert torch.equal(loaded.component(z.float(), y), mixture.component(z.float(), y))


def test_component_counts_on_from_class_to_class() -> None:
    mixture = ClassMixture(3, 2, 1)
    mixture.load_state_dict(
        {
            "centroids": torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]], [[1.0], [0.0]]]),
            "variances": torch.ones(3, 2, 1),
            "weights": torch.full((3, 2), 1 / 6),
            "fitted": torch.tensor(True),
        }
    )
    z = torch.tensor([[0.1], [0.9], [0.1], [0.9]])
    assert mixture.component(z, torch.tensor([2, 2, 0, 1])).tolist() == [5, 4, 0, 3]


def test_shapes_that_do_not_fit_are_refused() -> None:
    mixture = ClassMixture(2, 2, 3)
    y = torch.tensor([0, 1, 0, 1])
    for z in (torch.zeros(4, 2), torch.zeros(5, 3), torch.zeros(4, 3, 1)):
        with pytest.raises(InputError, match=r"expected features \(n, 3\)"):
            mixture.fit(z, y, Rng(0))
    with pytest.raises(InputError, match=r"none of \[1\]"):
        mixture.fit(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), Rng(0))
    assert not bool(mixture.fitted)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(SpecError, match=">= 1"):
        ClassMixture(*sizes)
