"""Fits to streams: in constant memory, near the fit to everything; and projections of wide features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.errors import InputError, SpecError
from splitveil.mixtures import ClassMixture, Projection, fit_stream
from splitveil.mixtures.streaming import Reservoir
from splitveil.rng import Rng


def features(seed: int, n: int, classes: int, q: int) -> tuple[Tensor, Tensor]:
    """Overlapping clusters, float32; the stream is sorted by class, the worst order there is."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.permutation(np.arange(n) % classes))
    place = 0.5 * rng.normal(size=(classes * 3, q))
    z = place[y * 3 + rng.integers(0, 3, n)] + rng.normal(size=(n, q))
    return torch.from_numpy(z).float(), torch.from_numpy(y)


def inertia(mixture: ClassMixture, z: Tensor, y: Tensor) -> float:
    return float((mixture.centroids[y] - z.unsqueeze(1)).square().sum(2).amin(1).sum())


def chunks(z: Tensor, y: Tensor, size: int) -> zip[tuple[Tensor, Tensor]]:
    return zip(torch.split(z, size), torch.split(y, size), strict=True)


@pytest.mark.parametrize("size", [100, 4096])
def test_the_objective_is_within_one_percent_of_the_batch_fit(size: int) -> None:
    z, y = features(0, 20_000, 4, 16)
    whole, streamed = ClassMixture(4, 3, 16), ClassMixture(4, 3, 16)
    whole.fit(z, y, Rng(0))
    fit_stream(streamed, chunks(z, y, size), Rng(0), room=4000)
    assert inertia(streamed, z, y) < 1.01 * inertia(whole, z, y)
    torch.testing.assert_close(streamed.weights.sum(1), whole.weights.sum(1))


def test_a_stream_that_fits_is_the_batch_fit() -> None:
    z, y = features(1, 300, 3, 5)
    whole, streamed = ClassMixture(3, 2, 5), ClassMixture(3, 2, 5)
    whole.fit(z, y, Rng(0))
    fit_stream(streamed, chunks(z, y, 70), Rng(0), room=10_000)
    torch.testing.assert_close(streamed.centroids, whole.centroids)
    torch.testing.assert_close(streamed.variances, whole.variances)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 12), st.sampled_from([1, 7, 50]))
def test_a_reservoir_keeps_so_many_of_each_class(seed: int, room: int, size: int) -> None:
    y = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, 100))
    z = torch.arange(100.0).unsqueeze(1)
    reservoir = Reservoir(3, room, Rng(seed))
    for rows, labels in chunks(z, y, size):
        reservoir.add(rows, labels)
    kept, labels = reservoir.sample
    count = torch.bincount(y, minlength=3)
    assert torch.equal(torch.bincount(labels, minlength=3), count.clamp(max=room))
    assert torch.equal(y[kept.flatten().long()], labels)
    assert len(set(kept.flatten().tolist())) == len(kept)
    assert torch.equal(reservoir.count, count)


def test_a_reservoir_keeps_all_samples_equally_often() -> None:
    counted = np.zeros(40)
    for seed in range(400):
        reservoir = Reservoir(1, 10, Rng(seed))
        for start in range(0, 40, 8):
            reservoir.add(torch.arange(start, start + 8.0).unsqueeze(1), torch.zeros(8).long())
        counted[reservoir.sample[0].flatten().long().numpy()] += 1
    assert counted.sum() == 4000
    assert abs(counted - 100).max() < 45  # standard deviation 8.7


def test_streams_that_lack_a_class_are_refused() -> None:
    with pytest.raises(InputError, match=r"none of \[2\]"):
        fit_stream(ClassMixture(3, 1, 2), [(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))], Rng(0))
    with pytest.raises(InputError, match="empty stream"):
        fit_stream(ClassMixture(3, 1, 2), [], Rng(0))
    with pytest.raises(SpecError, match="each of 3 classes"):
        fit_stream(ClassMixture(3, 1, 2), [], Rng(0), room=2)


# ------------------------------------------------------------------------------------------------ projection


@pytest.mark.parametrize(("q", "outputs"), [(12, 4), (13, 5), (6, 6), (9, 1)])
def test_rows_of_a_projection_are_orthonormal(q: int, outputs: int) -> None:
    projection = Projection(q, outputs, Rng(0))
    matrix = projection(torch.eye(q)).T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(outputs))
    assert not torch.equal(matrix, Projection(q, outputs, Rng(1))(torch.eye(q)).T)


def test_projected_noise_has_the_variance_that_is_said() -> None:
    projection = Projection(10, 3, Rng(0))
    variance = torch.linspace(0.1, 2.0, 10)
    matrix = projection(torch.eye(10)).T
    expected = torch.diag(matrix @ torch.diag(variance) @ matrix.T)
    torch.testing.assert_close(projection.variance(variance.unsqueeze(0))[0], expected)


@pytest.mark.parametrize("outputs", [0, 11])
def test_projections_out_of_range_are_refused(outputs: int) -> None:
    with pytest.raises(SpecError, match="1 to 10 dimensions"):
        Projection(10, outputs, Rng(0))
