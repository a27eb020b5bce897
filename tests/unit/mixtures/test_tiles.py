"""Tiles: every sample stands in one place, beside samples of its own segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.mixtures.tiles import Tiles

relaxed = settings(deadline=None, max_examples=40)


@relaxed
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 9), st.sampled_from([None, 1, 3, 8]))
def test_every_sample_stands_once_in_a_tile_of_its_segment(seed: int, n: int, segments: int, size: int | None) -> None:
    segment = torch.from_numpy(np.random.default_rng(seed).integers(0, segments, n))
    tiles = Tiles.of(segment, segments, size)
    assert sorted(tiles.rows[tiles.real].tolist()) == list(range(n))
    assert torch.equal(segment[tiles.rows], tiles.segment.unsqueeze(1).expand_as(tiles.rows))
    assert tiles.segment.tolist() == sorted(tiles.segment.tolist())
    assert bool(tiles.real[:, 0].all())  # no tile is empty


@relaxed
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 9), st.integers(1, 30))
def test_groups_hold_whole_segments_and_chunks_hold_all(seed: int, n: int, segments: int, room: int) -> None:
    tiles = Tiles.of(torch.from_numpy(np.random.default_rng(seed).integers(0, segments, n)), segments, 4)
    groups = list(tiles.groups(room))
    assert sum(len(group) for group in groups) == len(tiles)
    owners = [set(group.segment.tolist()) for group in groups]
    assert sum(len(owner) for owner in owners) == len(set.union(*owners))
    assert all(len(group) <= room or len(owner) == 1 for group, owner in zip(groups, owners, strict=True))
    chunks = list(tiles.chunks(room))
    assert torch.equal(torch.cat([chunk.rows for chunk in chunks]), tiles.rows)
    assert all(len(chunk) <= room for chunk in chunks)


@relaxed
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 6))
def test_sums_over_tiles_are_sums_over_segments(seed: int, n: int, segments: int) -> None:
    rng = np.random.default_rng(seed)
    segment, values = rng.integers(0, segments, n), rng.normal(size=(n, 3))
    less = rng.normal(size=(segments, 3))
    tiles = Tiles.of(torch.from_numpy(segment), segments)
    total = torch.zeros(segments, 3, dtype=torch.float64)
    tiles.add(total, tiles.gather(torch.from_numpy(values), torch.from_numpy(less)).sum(1))
    for index in range(segments):
        expected = (values[segment == index] - less[index]).sum(0)
        np.testing.assert_allclose(total[index].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("n", "segments"), [(40_000, 530), (50_000, 10), (7, 3)])
def test_little_is_padded(n: int, segments: int) -> None:
    tiles = Tiles.of(torch.arange(n) % segments, segments)
    assert tiles.rows.numel() <= max(1.35 * n, 8 * segments)
