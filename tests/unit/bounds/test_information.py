"""The per-sample bound against its formula, against Theorem 2, and against the true information."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bound_reference as reference
from splitveil.bounds import information_bound
from splitveil.mixtures import ClassMixture, Covariance
from splitveil.rng import Rng

seeds = st.integers(0, 10_000)
sizes = {"classes": st.integers(1, 5), "clusters": st.integers(1, 4), "q": st.integers(1, 6)}
each_kind = pytest.mark.parametrize("kind", get_args(Covariance))
each_exact = pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full"])  # for these, the mean is Theorem 2
relaxed = settings(deadline=None, max_examples=20)


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def fitted(
    z: Tensor, y: Tensor, classes: int, clusters: int, *, kind: Covariance, iterations: int = 50
) -> ClassMixture:
    mixture = ClassMixture(classes, clusters, z.shape[1], kind, rank=min(2, z.shape[1]))
    mixture.fit(z, y, Rng(0), iterations=iterations)
    return mixture


def of_the_wrong_class(mixture: ClassMixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index by a class's place among the classes present in the batch, as the released code does."""
    right = mixture.component

    def wrong(z: Tensor, y: Tensor) -> Tensor:
        return right(z, torch.unique(y, return_inverse=True)[1])

    monkeypatch.setattr(mixture, "component", wrong)


# ------------------------------------------------------------------------------------------------ the bound: values


@each_kind
@relaxed
@given(seed=seeds, n=st.integers(1, 12), empty=st.booleans(), **sizes)
def test_bound_is_the_formula(
    kind: Covariance, seed: int, n: int, empty: bool, classes: int, clusters: int, q: int
) -> None:
    """Any mixture, any labels in any order, batches of one included."""
    g = reference.draw_statistics(seed, classes, clusters, q, kind, empty=empty and clusters > 1)
    z, y = reference.draw_batch(seed + 1, n, classes, q)
    noise_variance = 0.3**2
    found = information_bound(*tensors(z), scalar(noise_variance), *tensors(y), g.module(noise_variance))
    assert found.shape == (n,)
    np.testing.assert_allclose(found.numpy(), reference.bound(z, np.full((n, q), noise_variance), y, g), rtol=1e-9)


@each_kind
@relaxed
@given(seeds, st.integers(1, 12), st.booleans())
def test_bound_with_noise_of_its_own_per_channel_and_sample(
    kind: Covariance, seed: int, n: int, per_sample: bool
) -> None:
    g = reference.draw_statistics(seed, 3, 2, 5, kind)
    z, y = reference.draw_batch(seed + 1, n, 3, 5)
    noise = np.exp(np.random.default_rng(seed).normal(size=(n if per_sample else 1, 5)))
    found = information_bound(*tensors(z, noise, y), g.module(noise.mean(0)))
    expected = reference.bound(z, np.broadcast_to(noise, (n, 5)), y, g)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_bound_by_hand() -> None:
    """One component, one dimension: ``1/2 [s^2/V + d^2/V - 1 + ln(V/s^2)]`` with s^2 1, S 3, d 2."""
    g = reference.Statistics(np.array([[[1.0]]]), np.array([[[3.0]]]), np.array([[1.0]]))
    found = information_bound(*tensors(np.array([[3.0]])), scalar(1.0), torch.tensor([0]), g.module(1.0))
    assert float(found) == pytest.approx(0.5 * (0.25 + 1.0 - 1.0 + np.log(4.0)))


@each_kind
def test_bound_takes_the_statistics_of_the_own_class(kind: Covariance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes 4, 1 and 3 of six, in this order: another class's statistics give another number."""
    g = reference.draw_statistics(0, 6, 2, 4, kind)
    z, _ = reference.draw_batch(1, 5, 6, 4)
    y = np.array([4, 1, 4, 3, 1])
    noise = np.full((5, 4), 0.01)
    mixture = g.module(0.01)
    expected = reference.bound(z, noise, y, g)
    np.testing.assert_allclose(information_bound(*tensors(z, noise, y), mixture).numpy(), expected, rtol=1e-9)
    shifted = g.classes_moved([1, 2, 3, 4, 5, 0]).module(0.01)
    assert bool((np.abs(information_bound(*tensors(z, noise, y), shifted).numpy() - expected) > 0.1).all())
    of_the_wrong_class(mixture, monkeypatch)
    assert bool((np.abs(information_bound(*tensors(z, noise, y), mixture).numpy() - expected) > 0.1).any())


@each_kind
@relaxed
@given(seed=seeds, **sizes)
def test_names_of_classes_do_not_matter(kind: Covariance, seed: int, classes: int, clusters: int, q: int) -> None:
    g = reference.draw_statistics(seed, classes, clusters, q, kind)
    z, y = reference.draw_batch(seed + 1, 8, classes, q)
    order = np.random.default_rng(seed).permutation(classes)
    renamed = np.argsort(order)[y]
    noise = scalar(0.04)
    torch.testing.assert_close(
        information_bound(*tensors(z), noise, *tensors(renamed), g.classes_moved(order.tolist()).module(0.04)),
        information_bound(*tensors(z), noise, *tensors(y), g.module(0.04)),
    )


# ------------------------------------------------------------------------------------------------ the bound: theory


@each_exact
@relaxed
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 50]))
def test_mean_over_the_fitted_data_is_theorem_two(
    kind: Covariance, seed: int, classes: int, clusters: int, iterations: int
) -> None:
    """Wherever Lloyd's algorithm stopped."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 60)])
    z = rng.normal(size=(len(y), 4)) * np.exp(rng.normal(size=(classes, 4)))[y] + y[:, None]
    noise_variance = 0.05
    mixture = fitted(*tensors(z, y), classes, clusters, kind=kind, iterations=iterations)
    mixture.condition(scalar(noise_variance))
    mean = float(information_bound(*tensors(z), scalar(noise_variance), *tensors(y), mixture).mean())
    assert mean == pytest.approx(reference.theorem_two(noise_variance, reference.statistics_of(mixture)), rel=1e-9)


def theorem_two_of_data(z: Tensor, component: Tensor, noise_variance: float, *, kind: Covariance) -> Tensor:
    """Theorem 2's right-hand side as a function of all features: means and variances move with them."""
    value = z.new_zeros(())
    for index in component.unique():
        members = z[component == index]
        share = len(members) / len(z)
        variance = (members - members.mean(0)).square().mean(0)
        if kind == "full":
            away = members - members.mean(0)
            total = away.T @ away / len(members) / noise_variance + torch.eye(z.shape[1], dtype=z.dtype)
            value = value + share * (-np.log(share) + 0.5 * torch.linalg.slogdet(total)[1])
            continue
        if kind == "isotropic":
            variance = variance.mean().expand(z.shape[1])
        value = value + share * (-np.log(share) + 0.5 * (variance / noise_variance).log1p().sum())
    return value


@each_exact
def test_gradient_is_that_of_theorem_two_on_all_data(kind: Covariance) -> None:
    """Statistics held fixed or moving with the data: the same gradient, once the centroids are the means."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 3, 90))
    z = torch.from_numpy(rng.normal(size=(90, 5)) + 6.0 * rng.integers(0, 2, size=(90, 1)) + y.numpy()[:, None])
    z.requires_grad_()
    mixture = fitted(z.detach(), y, 3, 2, kind=kind)
    mixture.condition(scalar(0.04))
    component = mixture.component(z.detach(), y)
    means = torch.stack([z.detach()[component == index].mean(0) for index in range(6)])
    torch.testing.assert_close(mixture.centroids.view(6, 5), means)  # the fit has converged
    (fixed,) = torch.autograd.grad(information_bound(z, scalar(0.04), y, mixture).mean(), z)
    (moving,) = torch.autograd.grad(theorem_two_of_data(z, component, 0.04, kind=kind), z)
    torch.testing.assert_close(fixed, moving, rtol=1e-10, atol=1e-13)
    g = reference.statistics_of(mixture)
    inverse = np.stack([np.linalg.inv(g.covariance(*divmod(index, 2)) + 0.04 * np.eye(5)) for index in range(6)])
    away = z.detach() - mixture.centroids.view(6, 5)[component]
    by_hand = torch.bmm(torch.from_numpy(inverse)[component], away.unsqueeze(2)).squeeze(2) / 90
    torch.testing.assert_close(fixed, by_hand, rtol=1e-10, atol=1e-13)


@each_kind
@relaxed
@given(seeds, st.integers(1, 6))
def test_gradient_is_that_of_finite_differences(kind: Covariance, seed: int, n: int) -> None:
    g = reference.draw_statistics(seed, 3, 2, 3, kind)
    z, y = tensors(*reference.draw_batch(seed + 1, n, 3, 3))
    mixture, noise = g.module(0.25), scalar(0.25)
    assert torch.autograd.gradcheck(lambda moved: information_bound(moved, noise, y, mixture), (z.requires_grad_(),))


def test_no_gradient_reaches_the_statistics() -> None:
    g = reference.draw_statistics(0, 2, 2, 3)
    z, y = tensors(*reference.draw_batch(1, 6, 2, 3))
    mixture = g.module(0.25)
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    information_bound(z.requires_grad_(), scalar(0.25), y, mixture).sum().backward()
    assert not any(value.requires_grad for value in mixture.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(0.05, 3.0), st.integers(1, 3), st.integers(1, 3))
def test_mean_is_never_below_the_information(seed: int, noise_std: float, classes: int, clusters: int) -> None:
    """Any fixed mixture and any labels: features that take eight values, whose information is known by quadrature."""
    g = reference.draw_statistics(seed, classes, clusters, 1)
    z, y = reference.draw_batch(seed + 1, 8, classes, 1)
    noise = scalar(noise_std).square()
    mean = float(information_bound(*tensors(z), noise, *tensors(y), g.module(noise_std**2)).mean())
    assert mean >= reference.mutual_information(z[:, 0], noise_std) - 1e-6


def test_one_gaussian_component_is_the_capacity_of_a_gaussian_channel() -> None:
    """On Gaussian features the bound is tight: ``q/2 ln(1 + S/s^2)``."""
    z = torch.randn(200_000, 2, generator=Rng(0).generator(), dtype=torch.float64) * 0.5
    g = reference.Statistics(np.zeros((1, 1, 2)), np.full((1, 1, 2), 0.25), np.ones((1, 1)))
    mean = information_bound(z, scalar(0.01), torch.zeros(len(z)).long(), g.module(0.01)).mean()
    assert float(mean) == pytest.approx(np.log(26.0), abs=0.02)


@each_kind
@relaxed
@given(seeds, st.floats(0.01, 100.0))
def test_units_and_origin_of_the_features_do_not_matter(kind: Covariance, seed: int, factor: float) -> None:
    """``z -> a z + b`` with noise, centroids and variances in the same units: information has no unit."""
    g = reference.draw_statistics(seed, 3, 2, 4, kind)
    z, y = reference.draw_batch(seed + 1, 8, 3, 4)
    scaled = reference.rescaled(g, factor)
    moved = replace(scaled, centroids=scaled.centroids + 3.0)
    expected = information_bound(*tensors(z), scalar(0.09), *tensors(y), g.module(0.09))
    noise = scalar(0.09 * factor**2)
    torch.testing.assert_close(
        information_bound(*tensors(z * factor + 3.0), noise, *tensors(y), moved.module(0.09 * factor**2)),
        expected,
        rtol=1e-6,
        atol=1e-6,
    )


def test_features_that_are_there_twice_count_twice() -> None:
    """All of B but the weight of the component is a sum over dimensions, so B / q means the same at any q."""
    g = reference.draw_statistics(0, 2, 2, 3)
    z, y = reference.draw_batch(1, 6, 2, 3)
    twice = reference.Statistics(np.tile(g.centroids, 2), np.tile(g.variances, 2), g.weights)
    noise = scalar(0.04)
    once = information_bound(*tensors(z), noise, *tensors(y), g.module(0.04))
    double = information_bound(*tensors(np.tile(z, 2)), noise, *tensors(y), twice.module(0.04))
    weight = np.array([g.weights[label, g.nearest(row, label)] for row, label in zip(z, y, strict=True)])
    np.testing.assert_allclose((double - once).numpy(), (once + torch.from_numpy(np.log(weight))).numpy())


@each_kind
def test_a_batch_is_the_mean_of_its_halves(kind: Covariance) -> None:
    """Exact under data parallelism, also with noise that differs between channels."""
    g = reference.draw_statistics(0, 4, 3, 5, kind)
    z, y = tensors(*reference.draw_batch(1, 12, 4, 5))
    noise = torch.linspace(0.01, 0.5, 5).double()
    mixture = g.module(noise.numpy())
    whole = information_bound(z, noise, y, mixture)
    halves = [information_bound(z[part], noise, y[part], mixture) for part in (slice(6), slice(6, 12))]
    torch.testing.assert_close(torch.cat(halves), whole)
    alone = [information_bound(z[row : row + 1], noise, y[row : row + 1], mixture) for row in range(12)]
    torch.testing.assert_close(torch.cat(alone), whole)


@relaxed
@given(seeds, st.floats(0.05, 1.0), st.floats(1.1, 4.0))
def test_more_noise_bounds_lower(seed: int, noise_std: float, factor: float) -> None:
    """At the centroid: there, less noise can only mean more information."""
    g = reference.draw_statistics(seed, 2, 1, 3)
    y = torch.tensor([0, 1])
    at = torch.from_numpy(g.centroids[:, 0])
    low, high = (
        information_bound(at, scalar(std).square(), y, g.module(std**2)) for std in (noise_std * factor, noise_std)
    )
    assert bool((low < high).all())
