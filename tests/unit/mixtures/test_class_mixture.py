"""The mixture of features: its statistics are those of the samples that are assigned to each component."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor

from splitveil.bounds import information_bound
from splitveil.errors import InputError, SpecError
from splitveil.mixtures import ClassMixture, Covariance
from splitveil.mixtures.covariance import low_rank_root
from splitveil.rng import Rng

each_covariance = pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
each_kind = pytest.mark.parametrize("covariance", get_args(Covariance))


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
    mixture = ClassMixture(classes, clusters, z.shape[1], covariance, rank=min(2, z.shape[1]))
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


@pytest.mark.parametrize(
    ("covariance", "width", "more"),
    [
        ("isotropic", 1, {}),
        ("diagonal", 3, {}),
        ("low_rank", 3, {"factors": (8, 3, 2)}),
        ("full", 3, {"covariances": (8, 3, 3)}),
    ],
)
def test_shapes(covariance: Covariance, width: int, more: dict[str, tuple[int, ...]]) -> None:
    mixture = ClassMixture(4, 2, 3, covariance, rank=2)
    assert not bool(mixture.fitted)
    shapes = {name: tuple(value.shape) for name, value in mixture.state_dict().items()}
    expected = {
        "centroids": (4, 2, 3),
        "variances": (4, 2, width),
        "weights": (4, 2),
        "noise": (3,),
        "fitted": (),
        **more,
    }
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


@each_kind
def test_saved_and_loaded(covariance: Covariance) -> None:
    """What follows from the saved buffers follows again, to the bit."""
    z, y = (value for value in features(4, 120, 3, 4))
    mixture = fitted(z.float(), y, 3, 2, covariance)
    mixture.condition(torch.tensor(0.04))
    loaded = ClassMixture(3, 2, 4, covariance, rank=2)
    loaded.load_state_dict(mixture.state_dict())
    assert bool(loaded.fitted)
    component = loaded.component(z.float(), y)
    assert torch.equal(component, mixture.component(z.float(), y))
    assert torch.equal(loaded.offset, mixture.offset)
    energies = [item.energy(z.float(), torch.tensor(0.04), component) for item in (loaded, mixture)]
    assert torch.equal(energies[0], energies[1])


def test_component_counts_on_from_class_to_class() -> None:
    mixture = ClassMixture(3, 2, 1)
    mixture.load_state_dict(
        {
            "centroids": torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]], [[1.0], [0.0]]]),
            "variances": torch.ones(3, 2, 1),
            "weights": torch.full((3, 2), 1 / 6),
            "noise": torch.ones(1),
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


# ------------------------------------------------------------------------------------------------ covariances


def members_of(mixture: ClassMixture, z: Tensor, y: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Components with their samples around the centroid."""
    component = mixture.component(z, y).numpy()
    for index in range(mixture.components):
        members = z.numpy()[component == index]
        if len(members):
            yield index, members - mixture.centroids.view(-1, mixture.q)[index].numpy()


def test_full_covariances_are_second_moments_around_the_centroids() -> None:
    z, y = features(6, 300, 3, 5)
    mixture = fitted(z, y, 3, 2, "full")
    for index, away in members_of(mixture, z, y):
        np.testing.assert_allclose(mixture.covariances[index].numpy(), away.T @ away / len(away), atol=1e-12)


def test_factors_reach_the_leading_principal_parts() -> None:
    """Against the eigenvectors of NumPy, on covariances with a gap after the second value."""
    rng = np.random.default_rng(0)
    spread = np.diag([3.0, 2.0, 0.3, 0.2, 0.1, 0.1])
    turned = [np.linalg.qr(rng.normal(size=(6, 6)))[0] @ spread for _ in range(3)]
    y = np.arange(600) % 3
    z = np.stack([turned[label] @ rng.normal(size=6) for label in y]) + 40.0 * y[:, None]
    mixture = fitted(torch.from_numpy(z), torch.from_numpy(y), 3, 1, "low_rank")
    for index, away in members_of(mixture, torch.from_numpy(z), torch.from_numpy(y)):
        values, vectors = np.linalg.eigh(away.T @ away / len(away))
        expected = (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
        factors = mixture.factors[index].numpy()
        np.testing.assert_allclose(factors @ factors.T, expected, atol=2e-3 * values[-1])


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 5), st.integers(4, 40))
def test_factors_never_exceed_the_covariance(seed: int, q: int, rank: int, n: int) -> None:
    """Also where a cluster holds fewer samples than directions: what is left on the diagonal is not negative."""
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, q)))
    mixture = ClassMixture(1, 3, q, "low_rank", rank=min(rank, q))
    mixture.fit(z, None, Rng(seed))
    left = mixture.variances.view(-1, q) - mixture.factors.square().sum(2)
    assert float(left.min()) > -1e-9
    assert bool(mixture.factors.isfinite().all())


@pytest.mark.parametrize("q", [1, 4])
def test_determinant_and_inverse_of_low_rank_are_those_of_the_matrix(q: int) -> None:
    """Woodbury and the determinant lemma against NumPy's slogdet and inverse."""
    rng = np.random.default_rng(q)
    diagonal, factors = rng.uniform(0.1, 2.0, size=(5, q)), rng.normal(size=(5, q, min(2, q)))
    root, log_det = low_rank_root(torch.from_numpy(diagonal), torch.from_numpy(factors))
    for index in range(5):
        total = np.diag(diagonal[index]) + factors[index] @ factors[index].T
        assert float(log_det[index]) == pytest.approx(np.linalg.slogdet(total)[1])
        inverse = np.diag(1 / diagonal[index]) - (root[index] @ root[index].T).numpy()
        np.testing.assert_allclose(inverse, np.linalg.inv(total), atol=1e-12)


@each_kind
def test_richer_covariances_bound_lower_on_the_fitted_features(covariance: Covariance) -> None:
    """Theorem 2 on correlated features: each step from isotropic to full explains more of them."""
    rng = np.random.default_rng(1)
    z = torch.from_numpy(rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)))
    order = get_args(Covariance)
    means = []
    for kind in order[: order.index(covariance) + 1]:
        mixture = ClassMixture(1, 2, 6, kind, rank=2)
        mixture.fit(z, None, Rng(0))
        mixture.condition(torch.tensor(0.01))
        means.append(float(information_bound(z, torch.tensor(0.01).double(), torch.zeros(400).long(), mixture).mean()))
    assert means == sorted(means, reverse=True)


def test_full_covariances_that_memory_cannot_hold_are_refused() -> None:
    with pytest.raises(SpecError, match="use covariance 'low_rank'"):
        ClassMixture(530, 5, 1152, "full")
    with pytest.raises(SpecError, match="rank from 1 to the feature's 4"):
        ClassMixture(2, 2, 4, "low_rank", rank=5)


# ------------------------------------------------------------------------------------------------ EM


@each_covariance
def test_em_ends_where_scikit_learn_ends(covariance: Covariance) -> None:
    """One mixture per class, from the same start, after the same number of steps."""
    z, y = features(8, 600, 2, 3)
    clusters = 3
    start = fitted(z, y, 2, clusters, covariance)
    refined = ClassMixture(2, clusters, 3, covariance).double()
    refined.load_state_dict(start.state_dict())
    refined.fit(z, y, Rng(0), iterations=1, em_iterations=20)
    start.fit(z, y, Rng(0), iterations=1)  # the state that EM began from
    kind = {"isotropic": "spherical", "diagonal": "diag"}[covariance]
    for label in range(2):
        spread = start.variances[label].numpy()
        shares = (start.weights[label] / start.weights[label].sum()).numpy()
        oracle = GaussianMixture(
            clusters,
            covariance_type=kind,
            tol=0.0,
            max_iter=20,
            reg_covar=0.0,
            weights_init=shares,
            means_init=start.centroids[label].numpy(),
            precisions_init=1 / (spread[:, 0] if kind == "spherical" else spread),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was asked for no more steps
            oracle.fit(z[y == label].numpy())
        np.testing.assert_allclose(refined.centroids[label].numpy(), oracle.means_, atol=1e-6)
        found = refined.variances[label].numpy()
        expected = oracle.covariances_[:, None] if kind == "spherical" else oracle.covariances_
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        share = (refined.weights[label] / refined.weights[label].sum()).numpy()
        np.testing.assert_allclose(share, oracle.weights_, atol=1e-7)


def test_em_keeps_collapsed_clusters_alive() -> None:
    """Features that are points: variances stop at a floor, nothing becomes infinite."""
    z = torch.arange(4.0).repeat_interleave(5).unsqueeze(1)
    mixture = ClassMixture(1, 2, 1)
    mixture.fit(z, None, Rng(0), em_iterations=30)
    assert bool((mixture.variances > 0).all() & mixture.centroids.isfinite().all())


# ------------------------------------------------------------------------------------------------ labels and noise


def test_without_labels_there_is_one_class() -> None:
    z, _ = features(9, 100, 3, 2)
    mixture = ClassMixture(1, 4, 2)
    mixture.fit(z, None, Rng(0))
    assert float(mixture.weights.sum()) == pytest.approx(1.0)
    with pytest.raises(InputError, match="no labels"):
        ClassMixture(3, 2, 2).fit(z, None, Rng(0))


def test_reweighing_keeps_the_shares_within_a_class() -> None:
    z, y = features(3, 300, 3, 2)
    mixture = fitted(z, y, 3, 2, "diagonal")
    within = mixture.weights / mixture.weights.sum(1, keepdim=True)
    mixture.reweigh(torch.tensor([0.2, 0.5, 0.3]).double())
    np.testing.assert_allclose(mixture.weights.sum(1).numpy(), [0.2, 0.5, 0.3])
    torch.testing.assert_close(mixture.weights / mixture.weights.sum(1, keepdim=True), within)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_without_variance_is_refused(noise: float) -> None:
    z, y = features(3, 60, 2, 2)
    mixture = fitted(z, y, 2, 1, "diagonal")
    with pytest.raises(SpecError, match="unbounded"):
        mixture.condition(torch.tensor(noise))


def linear_features(n: int, q: int, pixels: int) -> Tensor:
    """Of few numbers, far larger than any noise below."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(n, pixels)) @ rng.normal(size=(pixels, q))).float()


@pytest.mark.parametrize("covariance", ["full", "low_rank"])
def test_noise_below_the_rounding_of_a_covariance_still_gives_a_bound(covariance: Covariance) -> None:
    z, y = linear_features(2000, 128, 16), torch.zeros(2000, dtype=torch.int64)
    for std in (1e-2, 1e-3, 1e-4):
        noise, exact = torch.tensor(std**2), np.cov(z.double().numpy().T, bias=True)
        mixture = ClassMixture(1, 1, 128, covariance, rank=16)
        mixture.fit(z, y, Rng(0))
        mixture.condition(noise)
        bound = float(information_bound(z, noise, y, mixture).mean())
        values = np.linalg.eigvalsh(exact).clip(0)
        assert bound >= 0.5 * np.log1p(values / std**2).sum() - 1e-2 * bound


def test_directions_that_a_poor_fit_lost_come_back() -> None:
    rng = np.random.default_rng(1)
    z = torch.from_numpy(rng.normal(size=(400, 2)) @ rng.normal(size=(2, 12))).float()
    y, noise = torch.zeros(400, dtype=torch.int64), torch.tensor(0.01)
    bounds = []
    for first in (None, torch.zeros(50, 12), z[:2]):
        mixture = ClassMixture(1, 1, 12, "low_rank", rank=4)
        for part in (first, z):
            if part is not None:
                mixture.fit(part, y[: len(part)], Rng(0))
        mixture.condition(noise)
        bounds.append(float(information_bound(z, noise, y, mixture).mean()))
    assert bounds[1:] == pytest.approx([bounds[0]] * 2, rel=0.01)


def test_em_on_points_keeps_their_weights() -> None:
    z = torch.cat([torch.zeros(20, 3), torch.full((20, 3), 8.0)])
    mixture = ClassMixture(1, 2, 3, "diagonal")
    mixture.fit(z, torch.zeros(40, dtype=torch.int64), Rng(0), em_iterations=5)
    assert mixture.weights.flatten().tolist() == pytest.approx([0.5, 0.5])
