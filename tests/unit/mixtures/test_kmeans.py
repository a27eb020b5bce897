"""k-means inside each class: against brute force, against scikit-learn, and at its awkward ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from splitveil.errors import InputError
from splitveil.mixtures import fit_centroids, nearest_centroid
from splitveil.mixtures.tiles import segment_mean
from splitveil.rng import Rng

seeds = st.integers(0, 10_000)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def labels(seed: int, n: int, classes: int) -> Tensor:
    """Random labels; every class is present once n reaches the number of classes."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.permutation(np.concatenate([np.arange(classes), rng.integers(0, classes, n)])[:n]))


def separated(seed: int, classes: int, clusters: int, q: int, each: int = 40) -> tuple[Tensor, Tensor]:
    """Features in narrow clouds that lie far apart, rows in random order; the classes overlap each other."""
    rng = np.random.default_rng(seed)
    corners = np.stack([rng.permutation(3 * clusters)[:clusters] for _ in range(classes)]) * 50.0
    z = corners[:, :, None, None] + rng.normal(size=(classes, clusters, each, q))
    y = np.broadcast_to(np.arange(classes)[:, None, None], (classes, clusters, each))
    order = rng.permutation(y.size)
    return torch.from_numpy(z.reshape(-1, q)[order]), torch.from_numpy(y.reshape(-1)[order])


def brute_force(z: Tensor, y: Tensor, centroids: Tensor, alive: Tensor) -> list[int]:
    """The first nearest centroid of the own class, one row and one centroid at a time."""
    found = []
    for row, label in zip(z.numpy(), y.tolist(), strict=True):
        distances = {
            j: float(((row - centroids[label, j].numpy()) ** 2).sum())
            for j in range(centroids.shape[1])
            if alive[label, j]
        }
        found.append(min(distances, key=lambda j: distances[j]))
    return found


def inertia(z: Tensor, y: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the nearest centroid of the own class."""
    own = (z.unsqueeze(1) - centroids[y]).square().sum(2)
    return float(own.min(1).values.sum())


# ------------------------------------------------------------------------------------------------ assignment


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_nearest_is_that_of_brute_force(seed: int, n: int, classes: int, clusters: int, q: int) -> None:
    z, centroids = normal(seed, n, q), normal(seed + 1, classes, clusters, q)
    y = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, n))
    alive = torch.from_numpy(np.random.default_rng(seed + 2).random((classes, clusters)) < 0.5)
    alive[:, seed % clusters] = True
    everything = torch.ones_like(alive)
    assert nearest_centroid(z, y, centroids).tolist() == brute_force(z, y, centroids, everything)
    assert nearest_centroid(z, y, centroids, alive).tolist() == brute_force(z, y, centroids, alive)


def test_nearest_does_not_depend_on_the_chunk() -> None:
    """More rows than one chunk of working memory, at an odd place."""
    z, y, centroids = normal(0, 20_001, 2), labels(0, 20_001, 3), normal(1, 3, 4, 2)
    whole = nearest_centroid(z, y, centroids)
    distances = (z.unsqueeze(1) - centroids[y]).square().sum(2)
    assert torch.equal(whole, distances.argmin(1))
    assert torch.equal(nearest_centroid(z[8190:8200], y[8190:8200], centroids), whole[8190:8200])


def test_nearest_survives_features_far_from_the_origin() -> None:
    """float32: distances of size 1 beside a common offset of 300 must not drown in the squares of the offset."""
    z, y, centroids = normal(0, 500, 64).float(), labels(0, 500, 3), normal(1, 3, 5, 64).float()
    offset = 300.0
    shifted, moved = z + offset, centroids + offset
    expected = (shifted.double().unsqueeze(1) - moved.double()[y]).square().sum(2)
    found = nearest_centroid(shifted, y, moved)
    lost = expected.gather(1, found.unsqueeze(1)).squeeze(1) - expected.min(1).values
    assert float(lost.max()) < 1e-2


def test_a_centroid_of_another_class_is_never_nearest() -> None:
    centroids = torch.tensor([[[0.0], [1.0]], [[0.4], [5.0]], [[-9.0], [0.45]]])
    z, y = torch.full((3, 1), 0.45), torch.tensor([2, 0, 1])
    assert nearest_centroid(z, y, centroids).tolist() == [1, 0, 0]


# ------------------------------------------------------------------------------------------------ segment means


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 30), st.integers(1, 8))
def test_segment_means_are_those_of_numpy(seed: int, n: int, segments: int) -> None:
    values = normal(seed, n, 3)
    index = torch.from_numpy(np.random.default_rng(seed).integers(0, segments, n))
    means, count = segment_mean(values, index, segments)
    for segment in range(segments):
        members = values[index == segment].numpy()
        assert count[segment] == len(members)
        expected = members.mean(0) if len(members) else np.zeros(3)
        np.testing.assert_allclose(means[segment].numpy(), expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------ Lloyd's algorithm


@pytest.mark.parametrize("seed", range(8))
def test_separated_clusters_are_found_as_by_scikit_learn(seed: int) -> None:
    classes, clusters = 3, 4
    z, y = separated(seed, classes, clusters, q=5)
    centroids, count = fit_centroids(z, y, classes, clusters, Rng(seed))
    reference = sum(
        KMeans(clusters, n_init=5, random_state=seed).fit(z[y == label].numpy()).inertia_ for label in range(classes)
    )
    assert inertia(z, y, centroids) <= 1.01 * reference
    assert torch.equal(count, torch.full_like(count, 40.0))


@pytest.mark.parametrize("seed", range(4))
def test_from_the_same_start_it_ends_where_scikit_learn_ends(seed: int) -> None:
    """Overlapping features: Lloyd's algorithm is a function of its start, whoever runs it."""
    z = normal(seed, 300, 4)
    start = z[:6].clone()
    centroids, count = fit_centroids(
        z, torch.zeros(300, dtype=torch.int64), 1, 6, Rng(0), start=start[None], iterations=300, tolerance=0.0
    )
    reference = KMeans(6, init=start.numpy(), n_init=1, max_iter=300, tol=0.0, algorithm="lloyd").fit(z.numpy())
    np.testing.assert_allclose(centroids[0].numpy(), reference.cluster_centers_, atol=1e-8)
    assert count[0].tolist() == np.bincount(reference.labels_, minlength=6).tolist()


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(2, 5), st.integers(1, 4))
def test_all_classes_at_once_equal_one_by_one(seed: int, classes: int, clusters: int) -> None:
    z, y = normal(seed, 20 * classes, 3), labels(seed, 20 * classes, classes)
    start = normal(seed + 1, classes, clusters, 3)
    centroids, count = fit_centroids(z, y, classes, clusters, Rng(0), start=start, iterations=500, tolerance=0.0)
    for label in range(classes):
        own = z[y == label]
        alone, alone_count = fit_centroids(
            own,
            torch.zeros(len(own), dtype=torch.int64),
            1,
            clusters,
            Rng(0),
            start=start[label : label + 1],
            iterations=500,
            tolerance=0.0,
        )
        torch.testing.assert_close(centroids[label], alone[0], atol=1e-9, rtol=0.0)
        assert torch.equal(count[label], alone_count[0])


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 12))
def test_more_iterations_never_fit_worse(seed: int, iterations: int) -> None:
    z, y = normal(seed, 60, 3), labels(seed, 60, 2)
    start = normal(seed + 1, 2, 4, 3)
    errors = [
        inertia(z, y, fit_centroids(z, y, 2, 4, Rng(0), start=start, iterations=steps, tolerance=0.0)[0])
        for steps in (iterations, iterations + 1)
    ]
    assert errors[1] <= errors[0] + 1e-9


def test_the_key_alone_decides() -> None:
    z, y = normal(0, 200, 3), labels(0, 200, 2)
    first, again, other = (fit_centroids(z, y, 2, 5, Rng(seed), iterations=2)[0] for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_start_is_not_written_to() -> None:
    z, y, start = normal(0, 50, 2), labels(0, 50, 2), normal(1, 2, 3, 2)
    kept = start.clone()
    fit_centroids(z, y, 2, 3, Rng(0), start=start)
    assert torch.equal(start, kept)


# ------------------------------------------------------------------------------------------------ starts


def test_starts_are_drawn_by_squared_distance() -> None:
    """One far point beside 99 equal ones: its squared distance is all there is, so it is always the second start."""
    z = torch.zeros(100, 1, dtype=torch.float64)
    z[37] = 8.0
    for seed in range(20):
        centroids, count = fit_centroids(z, torch.zeros(100, dtype=torch.int64), 1, 2, Rng(seed), iterations=1)
        assert sorted(centroids.flatten().tolist()) == [0.0, 8.0]
        assert sorted(count.flatten().tolist()) == [1.0, 99.0]


def test_the_first_start_is_drawn_evenly() -> None:
    """Starts are samples of their own class, and each is drawn about as often."""
    z = torch.arange(8, dtype=torch.float64).unsqueeze(1)
    y = torch.tensor([0, 1] * 4)
    counted = {0: [0] * 8, 1: [0] * 8}
    for seed in range(400):
        # one point per cloud is needed to see the start: the mean of a class with one cluster tells nothing of it
        centroids, _ = fit_centroids(z, y, 2, 1, Rng(seed), iterations=0)
        for label in (0, 1):
            counted[label][int(centroids[label, 0, 0])] += 1
    for label in (0, 1):
        own = counted[label][label::2]
        assert sum(own) == 400
        assert min(own) > 60  # 100 expected, standard deviation 8.7


# ------------------------------------------------------------------------------------------------ awkward ends


def test_an_empty_cluster_moves_to_the_farthest_sample() -> None:
    z, y = normal(0, 40, 2), torch.zeros(40, dtype=torch.int64)
    z[7] = 30.0
    start = torch.tensor([[[0.0, 0.0], [1e3, 1e3], [0.5, 0.5]]], dtype=torch.float64)
    centroids, count = fit_centroids(z, y, 1, 3, Rng(0), start=start)
    assert centroids[0, 1].tolist() == [30.0, 30.0]
    assert count[0, 1] == 1
    assert count.sum() == 40


def test_each_class_fills_its_own_empty_clusters() -> None:
    """Two of three start where no sample is nearest, in a class of many samples and in one of two."""
    z, y = normal(1, 60, 3), torch.cat([torch.zeros(58), torch.ones(2)]).long()
    start = normal(2, 2, 3, 3)
    start[:, 1:] = 1e4
    centroids, count = fit_centroids(z, y, 2, 3, Rng(0), start=start, iterations=200)
    assert bool((count[0] > 0).all())
    assert sorted(count[1].tolist()) == [0.0, 1.0, 1.0]
    assert inertia(z[y == 1], torch.zeros(2).long(), centroids[1:]) == pytest.approx(0.0, abs=1e-18)


def test_duplicate_centroids_part() -> None:
    z, y = normal(0, 60, 2), torch.zeros(60).long()
    start = torch.zeros(1, 4, 2, dtype=torch.float64)
    _, count = fit_centroids(z, y, 1, 4, Rng(0), start=start, iterations=50)
    assert bool((count > 0).all())


@settings(deadline=None, max_examples=10)
@given(seeds, st.sampled_from([1, 60, 500]))
def test_the_working_memory_does_not_matter(seed: int, room: int) -> None:
    """Groups of classes, classes larger than a chunk, everything at once: the same centroids."""
    z, y = normal(seed, 150, 3), labels(seed, 150, 4)
    start = normal(seed + 1, 4, 3, 3)
    whole, _ = fit_centroids(z, y, 4, 3, Rng(0), start=start, tolerance=0.0, iterations=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splitveil.mixtures.kmeans.CHUNK_VALUES", room)
        parts, _ = fit_centroids(z, y, 4, 3, Rng(0), start=start, tolerance=0.0, iterations=30)
        drawn, _ = fit_centroids(z, y, 4, 3, Rng(0), iterations=3)
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(drawn, fit_centroids(z, y, 4, 3, Rng(0), iterations=3)[0], atol=1e-9, rtol=0.0)


def test_fewer_samples_than_clusters() -> None:
    z, y = normal(0, 5, 3), torch.tensor([0, 1, 1, 0, 0])
    centroids, count = fit_centroids(z, y, 2, 6, Rng(0))
    assert bool(torch.isfinite(centroids).all())
    assert count.sum(1).tolist() == [3.0, 2.0]
    assert inertia(z, y, centroids) == pytest.approx(0.0, abs=1e-20)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_duplicates_fill_one_cluster_each(seed: int, distinct: int, clusters: int) -> None:
    """Equal features share a cluster; a class with fewer distinct features than clusters keeps the rest empty."""
    points = normal(seed, distinct, 2)
    z = points.repeat(7, 1)
    centroids, count = fit_centroids(z, torch.zeros(len(z), dtype=torch.int64), 1, clusters, Rng(seed))
    assert bool(torch.isfinite(centroids).all())
    assert count.sum() == 7 * distinct
    assert int((count > 0).sum()) <= min(distinct, clusters)
    assert all(int(size) % 7 == 0 for size in count.flatten())
    if clusters >= distinct:
        assert int((count > 0).sum()) == distinct
        assert inertia(z, torch.zeros(len(z), dtype=torch.int64), centroids) == pytest.approx(0.0, abs=1e-18)


def test_a_class_without_samples_is_named() -> None:
    with pytest.raises(InputError, match=r"all 4 classes.*none of \[1, 3\]"):
        fit_centroids(normal(0, 6, 2), torch.tensor([0, 0, 2, 2, 0, 2]), 4, 2, Rng(0))
