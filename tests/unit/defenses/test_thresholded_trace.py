"""The paper's surrogate against its formula, and where it indexes its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import bound_reference as reference
from splitveil.defenses.penalties.thresholded_trace import thresholded_trace
from splitveil.mixtures import ClassMixture

seeds = st.integers(0, 10_000)
sizes = {"classes": st.integers(1, 5), "clusters": st.integers(1, 4), "q": st.integers(1, 6)}
relaxed = settings(deadline=None, max_examples=20)


def tensors(*arrays: np.ndarray) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in arrays)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def of_the_wrong_class(mixture: ClassMixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Index by a class's place among the classes present in the batch, as the released code does."""
    right = mixture.component

    def wrong(z: Tensor, y: Tensor) -> Tensor:
        return right(z, torch.unique(y, return_inverse=True)[1])

    monkeypatch.setattr(mixture, "component", wrong)


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
    g = reference.draw_statistics(seed, classes, clusters, q, "isotropic", empty=empty and clusters > 1)
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
    g = reference.draw_statistics(0, 6, 2, 4, "isotropic")
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
    g = reference.draw_statistics(0, 2, 3, 4, "isotropic")
    z, y = tensors(*reference.draw_batch(1, 10, 2, 4))
    rare = reference.Statistics(g.centroids, g.variances, g.weights * np.array([[0.01], [1.0]]))
    assert float(trace_of(z, y, rare.module())) == pytest.approx(float(trace_of(z, y, g.module())))


def test_trace_is_a_mean_over_the_classes_present() -> None:
    g = reference.draw_statistics(0, 5, 2, 4, "isotropic")
    z, y = tensors(*reference.draw_batch(1, 12, 5, 4))
    mixture = g.module()
    by_class = [float(trace_of(z[y == label], y[y == label], mixture)) for label in y.unique()]
    assert float(trace_of(z, y, mixture)) == pytest.approx(np.mean(by_class))


@relaxed
@given(seeds, st.integers(1, 6))
def test_gradient_of_the_trace_is_that_of_finite_differences(seed: int, n: int) -> None:
    g = reference.draw_statistics(seed, 3, 2, 3, "isotropic")
    z, y = tensors(*reference.draw_batch(seed + 1, n, 3, 3))
    mixture = g.module()
    assert torch.autograd.gradcheck(lambda moved: trace_of(moved, y, mixture), (z.requires_grad_(),))


def test_origin_and_repeated_features_do_not_change_the_trace() -> None:
    """A scalar variance per cluster is a mean over dimensions: the same at twice the dimension."""
    g = reference.draw_statistics(0, 3, 2, 4, "isotropic")
    z, y = reference.draw_batch(1, 9, 3, 4)
    expected = float(trace_of(*tensors(z, y), g.module()))
    moved = reference.Statistics(g.centroids + 2.0, g.variances, g.weights)
    assert float(trace_of(*tensors(z + 2.0, y), moved.module())) == pytest.approx(expected)
    twice = reference.Statistics(np.tile(g.centroids, 2), g.variances, g.weights)
    assert float(trace_of(*tensors(np.tile(z, 2), y), twice.module())) == pytest.approx(expected)
