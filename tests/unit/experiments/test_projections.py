"""The plane of features against scikit-learn, and releases on the axes of the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import nn

from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.experiments.projections import PrincipalPlane, project_features
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 30), st.integers(2, 40), st.integers(0, 10**6))
def test_the_plane_is_that_of_scikit_learn(n: int, q: int, seed: int) -> None:
    points = Rng(seed).numpy().standard_normal((n, q)) * np.linspace(3.0, 0.5, q) + 7.0
    plane, peer = PrincipalPlane.fit(torch.from_numpy(points)), PCA(2, svd_solver="full").fit(points)
    assert np.allclose(plane.shares.numpy(), peer.explained_variance_ratio_, atol=1e-6)
    ours, theirs = plane.place(torch.from_numpy(points)).numpy(), peer.transform(points)
    for axis in range(2):
        if peer.singular_values_[axis] > 1e-6:
            assert np.allclose(np.abs(ours[:, axis]), np.abs(theirs[:, axis]), atol=1e-5)


def test_points_on_a_line_or_in_one_place_have_no_second_axis() -> None:
    line = PrincipalPlane.fit(torch.arange(5.0)[:, None] * torch.ones(3))
    assert line.shares.tolist() == pytest.approx([1.0, 0.0])
    assert line.place(torch.ones(2, 3))[:, 1].tolist() == [0.0, 0.0]
    assert PrincipalPlane.fit(torch.ones(4, 3)).shares.tolist() == [0.0, 0.0]


def _split(noise_std: float) -> tuple[SplitModel, Pictures]:
    with Rng(0).scoped():
        parts = SplitParts(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(72, 10)), (1, 8, 8))
    images = torch.from_numpy(Rng(1).numpy().integers(0, 256, (30, 1, 8, 8), dtype=np.uint8))
    table = ImageTable(images, torch.arange(30) % 10)
    return SplitModel(parts, Gaussian(noise_std=noise_std)), Pictures(table)


def test_without_noise_a_release_lies_where_its_features_lie() -> None:
    model, pictures = _split(1e-6)
    found = project_features(model, pictures, Rng(0))
    assert found["same_axes"].tolist() == [1]
    assert torch.allclose(found["before"], found["after"], atol=1e-4)
    assert torch.allclose(found["before_shares"], found["after_shares"], atol=1e-3)
    assert found["labels"].tolist() == pictures.labels.tolist()


def test_noise_moves_releases_and_the_key_decides_how() -> None:
    model, pictures = _split(1.0)
    first, again, other = (project_features(model, pictures, Rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["after"], again["after"])
    assert not torch.equal(first["after"], other["after"])
    assert torch.equal(first["before"], other["before"])
    assert first["after_shares"].sum() < first["before_shares"].sum()
