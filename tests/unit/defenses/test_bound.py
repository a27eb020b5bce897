"""The per-sample bound and the thresholded trace against their formulas."""

from __future__ import annotations

import bound_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.defenses.penalties.bound import information_bound, thresholded_trace
from splitveil.mixtures import ClassMixture
from splitveil.rng import Rng

seeds = st.integers(0, 10_000)
sizes = {"classes": st.integers(1, 5), "clusters": st.integers(1, 4), "q": st.integers(1, 6)}
each_shape = pytest.mark.parametrize("isotropic", [False, True], ids=["diagonal", "isotropic"])
relaxed = settings(deadline=None, max_examples=20)


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def fitted(z: Tensor, y: Tensor, classes: int, clusters: int, *, isotropic: bool, iterations: int = 50) -> ClassMixture:
    mixture = ClassMixture(classes, clusters, z.shape[1], "isotropic" if isotropic else "diagonal")
    mixture.fit(z, y, Rng(0), iterations=iterations)
    return mixture


def of_the_wrong_class(mixture: ClassMixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index by a class's place among the classes present in the batch, as the released code does."""
    right = mixture.component

    def wrong(z: Tensor, y: Tensor) -> Tensor:
        return right(z, torch.unique(y, return_inverse=True)[1])

    monkeypatch.setattr(mixture, "component", wrong)


# ------------------------------------------------------------------------------------------------ the bound: values


@each_shape
@relaxed
@given(seed=seeds, n=st.integers(1, 12), empty=st.booleans(), **sizes)
def test_bound_is_the_formula(
    isotropic: bool, seed: int, n: int, empty: bool, classes: int, clusters: int, q: int
) -> None:
    """Any mixture, any labels in any order, batches of one included."""
    g = reference.draw_statistics(seed, classes, clusters, q, isotropic=isotropic, empty=empty and clusters > 1)
    z, y = reference.draw_batch(seed + 1, n, classes, q)
    noise_variance = 0.3**2
    found = information_bound(*tensors(z), scalar(noise_variance), *tensors(y), g.module())
    assert found.shape == (n,)
    np.testing.assert_allclose(found.numpy(), reference.bound(z, np.full((n, q), noise_variance), y, g), rtol=1e-9)


@each_shape
@relaxed
@given(seeds, st.integers(1, 12), st.booleans())
def test_bound_with_noise_of_its_own_per_channel_and_sample(
    isotropic: bool, seed: int, n: int, per_sample: bool
) -> None:
    g = reference.draw_statistics(seed, 3, 2, 5, isotropic=isotropic)
    z, y = reference.draw_batch(seed + 1, n, 3, 5)
    noise = np.exp(np.random.default_rng(seed).normal(size=(n if per_sample else 1, 5)))
    found = information_bound(*tensors(z, noise, y), g.module())
    expected = reference.bound(z, np.broadcast_to(noise, (n, 5)), y, g)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_bound_by_hand() -> None:
    """One component, one dimension: ``1/2 [s^2/V + d^2/V - 1 + ln(V/s^2)]`` with s^2 1, S 3, d 2."""
    g = reference.Statistics(np.array([[[1.0]]]), np.array([[[3.0]]]), np.array([[1.0]]))
    found = information_bound(*tensors(np.array([[3.0]])), scalar(1.0), torch.tensor([0]), g.module())
    assert float(found) == pytest.approx(0.5 * (0.25 + 1.0 - 1.0 + np.log(4.0)))


@each_shape
def test_bound_takes_the_statistics_of_the_own_class(isotropic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes 4, 1 and 3 of six, in this order: another class's statistics give another number."""
    g = reference.draw_statistics(0, 6, 2, 4, isotropic=isotropic)
    z, _ = reference.draw_batch(1, 5, 6, 4)
    y = np.array([4, 1, 4, 3, 1])
    noise = np.full((5, 4), 0.01)
    mixture = g.module()
    expected = reference.bound(z, noise, y, g)
    np.testing.assert_allclose(information_bound(*tensors(z, noise, y), mixture).numpy(), expected, rtol=1e-9)
    shifted = g.classes_moved([1, 2, 3, 4, 5, 0]).module()
    assert bool((np.abs(information_bound(*tensors(z, noise, y), shifted).numpy() - expected) > 0.1).all())
    of_the_wrong_class(mixture, monkeypatch)
    assert bool((np.abs(information_bound(*tensors(z, noise, y), mixture).numpy() - expected) > 0.1).any())


@each_shape
@relaxed
@given(seed=seeds, **sizes)
def test_names_of_classes_do_not_matter(isotropic: bool, seed: int, classes: int, clusters: int, q: int) -> None:
    g = reference.draw_statistics(seed, classes, clusters, q, isotropic=isotropic)
    z, y = reference.draw_batch(seed + 1, 8, classes, q)
    order = np.random.default_rng(seed).permutation(classes)
    renamed = np.argsort(order)[y]
    noise = scalar(0.04)
    torch.testing.assert_close(
        information_bound(*tensors(z), noise, *tensors(renamed), g.classes_moved(order.tolist()).module()),
        information_bound(*tensors(z), noise, *tensors(y), g.module()),
    )


# ------------------------------------------------------------------------------------------------ the bound: theory


@each_shape
@relaxed
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 50]))
def test_mean_over_the_fitted_data_is_theorem_two(
    isotropic: bool, seed: int, classes: int, clusters: int, iterations: int
) -> None:
    """Wherever Lloyd's algorithm stopped."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 60)])
    z = rng.normal(size=(len(y), 4)) * np.exp(rng.normal(size=(classes, 4)))[y] + y[:, None]
    noise_variance = 0.05
    mixture = fitted(*tensors(z, y), classes, clusters, isotropic=isotropic, iterations=iterations)
    mean = float(information_bound(*tensors(z), scalar(noise_variance), *tensors(y), mixture).mean())
    assert mean == pytest.approx(reference.theorem_two(noise_variance, reference.statistics_of(mixture)), rel=1e-9)


def theorem_two_of_data(z: Tensor, component: Tensor, noise_variance: float, *, isotropic: bool) -> Tensor:
    """Theorem 2's right-hand side as a function of all features: means and variances move with them."""
    value = z.new_zeros(())
    for index in component.unique():
        members = z[component == index]
        share = len(members) / len(z)
        variance = (members - members.mean(0)).square().mean(0)
        if isotropic:
            variance = variance.mean().expand(z.shape[1])
        value = value + share * (-np.log(share) + 0.5 * (variance / noise_variance).log1p().sum())
    return value


@each_shape
def test_gradient_is_that_of_theorem_two_on_all_data(isotropic: bool) -> None:
    """Statistics held fixed or moving with the data: the same gradient, once the centroids are the means."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 3, 90))
    z = torch.from_numpy(rng.normal(size=(90, 5)) + 6.0 * rng.integers(0, 2, size=(90, 1)) + y.numpy()[:, None])
    z.requires_grad_()
    mixture = fitted(z.detach(), y, 3, 2, isotropic=isotropic)
    component = mixture.component(z.detach(), y)
    means = torch.stack([z.detach()[component == index].mean(0) for index in range(6)])
    torch.testing.assert_close(mixture.centroids.view(6, 5), means)  # the fit has converged
    (fixed,) = torch.autograd.grad(information_bound(z, scalar(0.04), y, mixture).mean(), z)
    (moving,) = torch.autograd.grad(theorem_two_of_data(z, component, 0.04, isotropic=isotropic), z)
    torch.testing.assert_close(fixed, moving, rtol=1e-10, atol=1e-13)
    total = mixture.variances.view(6, -1)[component] + 0.04
    by_hand = (z.detach() - mixture.centroids.view(6, 5)[component]) / total / 90
    torch.testing.assert_close(fixed, by_hand, rtol=1e-10, atol=1e-13)


@each_shape
@relaxed
@given(seeds, st.integers(1, 6))
def test_gradient_is_that_of_finite_differences(isotropic: bool, seed: int, n: int) -> None:
    g = reference.draw_statistics(seed, 3, 2, 3, isotropic=isotropic)
    z, y = tensors(*reference.draw_batch(seed + 1, n, 3, 3))
    mixture, noise = g.module(), scalar(0.25)
    assert torch.autograd.gradcheck(lambda moved: information_bound(moved, noise, y, mixture), (z.requires_grad_(),))


def test_no_gradient_reaches_the_statistics() -> None:
    g = reference.draw_statistics(0, 2, 2, 3)
    z, y = tensors(*reference.draw_batch(1, 6, 2, 3))
    mixture = g.module()
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
    mean = float(information_bound(*tensors(z), noise, *tensors(y), g.module()).mean())
    assert mean >= reference.mutual_information(z[:, 0], noise_std) - 1e-6


def test_one_gaussian_component_is_the_capacity_of_a_gaussian_channel() -> None:
    """On Gaussian features the bound is tight: ``q/2 ln(1 + S/s^2)``."""
    z = torch.randn(200_000, 2, generator=Rng(0).generator(), dtype=torch.float64) * 0.5
    g = reference.Statistics(np.zeros((1, 1, 2)), np.full((1, 1, 2), 0.25), np.ones((1, 1)))
    mean = information_bound(z, scalar(0.01), torch.zeros(len(z)).long(), g.module()).mean()
    assert float(mean) == pytest.approx(np.log(26.0), abs=0.02)


@each_shape
@relaxed
@given(seeds, st.floats(0.01, 100.0))
def test_units_and_origin_of_the_features_do_not_matter(isotropic: bool, seed: int, factor: float) -> None:
    """``z -> a z + b`` with noise, centroids and variances in the same units: information has no unit."""
    g = reference.draw_statistics(seed, 3, 2, 4, isotropic=isotropic)
    z, y = reference.draw_batch(seed + 1, 8, 3, 4)
    scaled = reference.rescaled(g, factor)
    moved = reference.Statistics(scaled.centroids + 3.0, scaled.variances, scaled.weights)
    expected = information_bound(*tensors(z), scalar(0.09), *tensors(y), g.module())
    noise = scalar(0.09 * factor**2)
    torch.testing.assert_close(
        information_bound(*tensors(z * factor + 3.0), noise, *tensors(y), moved.module()),
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
    once = information_bound(*tensors(z), noise, *tensors(y), g.module())
    double = information_bound(*tensors(np.tile(z, 2)), noise, *tensors(y), twice.module())
    weight = np.array([g.weights[label, g.nearest(row, label)] for row, label in zip(z, y, strict=True)])
    np.testing.assert_allclose((double - once).numpy(), (once + torch.from_numpy(np.log(weight))).numpy())


@each_shape
def test_a_batch_is_the_mean_of_its_halves(isotropic: bool) -> None:
    """Exact under data parallelism, also with noise that differs between channels."""
    g = reference.draw_statistics(0, 4, 3, 5, isotropic=isotropic)
    z, y = tensors(*reference.draw_batch(1, 12, 4, 5))
    noise = torch.linspace(0.01, 0.5, 5).double()
    mixture = g.module()
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
    low, high = (information_bound(at, scalar(std).square(), y, g.module()) for std in (noise_std * factor, noise_std))
    assert bool((low < high).all())


# ------------------------------------------------------------------------------------------------ thresholded trace


def trace_of(
    z: Tensor,
    y: Tensor,
    mixture: ClassMixture,
    *,
    s2: float = 0.01,
    class_size: float = 200.0,
    threshold: float = 0.125,
) -> Tensor:
    noise = scalar(s2)
    return thresholded_trace(z, noise, y, mixture, class_size=class_size, threshold=threshold)


@relaxed
@given(
    seed=seeds,
    n=st.integers(1, 20),
    class_size=st.floats(1.0, 5000.0),
    threshold=st.floats(0.05, 20.0),
    noise_std=st.floats(0.01, 3.0),
    empty=st.booleans(),
    **sizes,
)
def test_trace_is_the_formula(
    seed: int,
    n: int,
    class_size: float,
    threshold: float,
    noise_std: float,
    empty: bool,
    classes: int,
    clusters: int,
    q: int,
) -> None:
    """All its parts: the mix and its cap, the threshold, the relu, the mean over the classes present."""
    g = reference.draw_statistics(seed, classes, clusters, q, isotropic=True, empty=empty and clusters > 1)
    z, y = reference.draw_batch(seed + 1, n, classes, q)
    s2 = noise_std**2
    found = trace_of(*tensors(z, y), g.module(), s2=s2, class_size=class_size, threshold=threshold)
    expected = reference.thresholded_trace(z, s2, y, g, class_size, threshold)
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def one_cluster(variance: float = 0.5) -> reference.Statistics:
    return reference.Statistics(np.zeros((1, 1, 2)), np.full((1, 1, 1), variance), np.ones((1, 1)))


def test_trace_by_hand() -> None:
    """Two samples of a class of 100: a = 0.2; v_batch 1, v_stored 0.5, so v = 0.6; t s^2 = 0.09."""
    z, y = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double(), torch.tensor([0, 0])
    found = trace_of(z, y, one_cluster().module(), s2=0.36, class_size=100.0, threshold=0.25)
    assert float(found) == pytest.approx(np.log(0.61 / 0.10))


def test_trace_mixes_at_most_99_percent_of_the_batch() -> None:
    z, y = torch.ones(10, 2).double(), torch.zeros(10).long()
    found = trace_of(z, y, one_cluster(50.0).module(), s2=0.36, class_size=10.0, threshold=0.25)
    assert float(found) == pytest.approx(np.log((0.99 * 1.0 + 0.01 * 50.0 + 0.01) / 0.10))


def test_trace_has_no_pull_below_the_threshold() -> None:
    z = torch.full((4, 2), 0.1).double().requires_grad_()
    value = trace_of(z, torch.zeros(4).long(), one_cluster(0.02).module(), s2=0.36, threshold=0.25)
    assert float(value.detach()) == 0.0
    (gradient,) = torch.autograd.grad(value, z)
    assert float(gradient.abs().max()) == 0.0


def test_trace_takes_the_statistics_of_the_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    g = reference.draw_statistics(0, 6, 2, 4, isotropic=True)
    z, _ = reference.draw_batch(1, 5, 6, 4)
    y = np.array([4, 1, 4, 3, 1])
    mixture = g.module()
    expected = reference.thresholded_trace(z, 0.01, y, g, 200.0, 0.125)
    assert float(trace_of(*tensors(z, y), mixture)) == pytest.approx(expected)
    for order in ([1, 2, 3, 4, 5, 0], [5, 0, 1, 2, 3, 4]):
        assert abs(float(trace_of(*tensors(z, y), g.classes_moved(order).module())) - expected) > 0.05
    of_the_wrong_class(mixture, monkeypatch)
    assert abs(float(trace_of(*tensors(z, y), mixture)) - expected) > 0.05


def test_trace_weighs_a_cluster_by_its_share_of_its_class() -> None:
    """A class that is rare in the training set counts as much as a frequent one."""
    g = reference.draw_statistics(0, 2, 3, 4, isotropic=True)
    z, y = tensors(*reference.draw_batch(1, 10, 2, 4))
    rare = reference.Statistics(g.centroids, g.variances, g.weights * np.array([[0.01], [1.0]]))
    assert float(trace_of(z, y, rare.module())) == pytest.approx(float(trace_of(z, y, g.module())))


def test_trace_is_a_mean_over_the_classes_present() -> None:
    g = reference.draw_statistics(0, 5, 2, 4, isotropic=True)
    z, y = tensors(*reference.draw_batch(1, 12, 5, 4))
    mixture = g.module()
    by_class = [float(trace_of(z[y == label], y[y == label], mixture)) for label in y.unique()]
    assert float(trace_of(z, y, mixture)) == pytest.approx(np.mean(by_class))


@relaxed
@given(seeds, st.integers(1, 6))
def test_gradient_of_the_trace_is_that_of_finite_differences(seed: int, n: int) -> None:
    g = reference.draw_statistics(seed, 3, 2, 3, isotropic=True)
    z, y = tensors(*reference.draw_batch(seed + 1, n, 3, 3))
    mixture = g.module()
    assert torch.autograd.gradcheck(lambda moved: trace_of(moved, y, mixture), (z.requires_grad_(),))


def test_origin_and_repeated_features_do_not_change_the_trace() -> None:
    """A scalar variance per cluster is a mean over dimensions: the same at twice the dimension."""
    g = reference.draw_statistics(0, 3, 2, 4, isotropic=True)
    z, y = reference.draw_batch(1, 9, 3, 4)
    expected = float(trace_of(*tensors(z, y), g.module()))
    moved = reference.Statistics(g.centroids + 2.0, g.variances, g.weights)
    assert float(trace_of(*tensors(z + 2.0, y), moved.module())) == pytest.approx(expected)
    twice = reference.Statistics(np.tile(g.centroids, 2), g.variances, g.weights)
    assert float(trace_of(*tensors(np.tile(z, 2), y), twice.module())) == pytest.approx(expected)
