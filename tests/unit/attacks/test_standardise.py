"""Whitening: what scikit-learn's shrinkage and numpy's eigenvectors say, and what a correlating defense gains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import oas
from torch import Tensor, nn

from attack_fixtures import KEY, invertible_head, mse, subject, view_of
from attack_fixtures import auxiliary as pictures
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.standardise import Standardise, Whiten, make_standardise
from splitveil.contracts import FeatureSpec
from splitveil.errors import InputError, SpecError, UnknownNameError
from splitveil.rng import Rng

SPECS = [
    FeatureSpec.of((5, 3, 4)),
    FeatureSpec((3, 4, 5), "map", 2, (3, 4)),
    FeatureSpec.of((6, 5)),
    FeatureSpec.of((5,)),
]


def correlated(spec: FeatureSpec, n: int = 30) -> Tensor:
    """Releases whose channels are mixed, shifted and of very different sizes."""
    generator = Rng(0).generator()
    mixing = torch.randn(5, 5, generator=generator) @ torch.diag(torch.tensor([1.0, 0.1, 3.0, 0.01, 1.0]))
    positions = [size for axis, size in enumerate(spec.shape) if axis != spec.channel_axis]
    r = torch.randn(n, *positions, 5, generator=generator) @ mixing + 7.0
    return r.movedim(-1, spec.channel_axis + 1).contiguous()


def rows(r: Tensor, spec: FeatureSpec) -> np.ndarray:
    return r.double().movedim(spec.channel_axis + 1, -1).reshape(-1, 5).numpy()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}{spec.channel_axis}")
@pytest.mark.parametrize("parts", [1, 3])
def test_it_divides_by_the_root_of_the_shrunk_correlations(spec: FeatureSpec, parts: int) -> None:
    r, whiten = correlated(spec), Whiten(spec)
    whiten.fit(torch.chunk(r, parts))
    values = rows(r, spec)
    scaled = (values - values.mean(0)) / values.std(0)
    shrunk, _ = oas(scaled, assume_centered=True)
    eigenvalues, vectors = np.linalg.eigh(shrunk)
    expected = scaled @ (vectors / np.sqrt(eigenvalues)) @ vectors.T
    np.testing.assert_allclose(rows(whiten(r), spec), expected, rtol=1e-3, atol=1e-3)


def test_many_releases_become_white() -> None:
    spec = FeatureSpec.of((5,))
    r, whiten = correlated(spec, 20_000), Whiten(spec)
    whiten.fit([r])
    np.testing.assert_allclose(np.cov(rows(whiten(r), spec).T), np.eye(5), atol=0.02)


def test_few_releases_are_shrunk() -> None:
    """Four releases of five channels have a singular covariance; nothing may blow up in its null space."""
    spec = FeatureSpec.of((5,))
    whiten = Whiten(spec)
    whiten.fit([correlated(spec, 4)])
    eigenvalues = torch.linalg.eigvalsh(whiten.mixing)
    assert float(eigenvalues.max()) < 3.0
    assert bool(torch.isfinite(whiten(correlated(spec, 40))).all())


def test_dead_channels_stay_dead() -> None:
    r = torch.randn(50, 3, 4, 4, generator=Rng(1).generator())
    r[:, 1], r[:, 2] = 0.7, 0.3 + 3e-8 * r[:, 0]
    whiten = Whiten(FeatureSpec.of((3, 4, 4)))
    whiten.fit([r])
    assert float(whiten(r).abs().max()) < 10.0


def test_equal_channels_are_not_divided_by_nothing() -> None:
    r = torch.randn(500, 1, generator=Rng(2).generator()).expand(-1, 3)
    whiten = Whiten(FeatureSpec.of((3,)))
    whiten.fit([r])
    assert float(whiten(r).abs().max()) < 5.0


def test_one_channel_is_standardised() -> None:
    spec = FeatureSpec.of((1, 4, 4))
    r = 3.0 + 2.0 * torch.randn(20, 1, 4, 4, generator=Rng(3).generator())
    affine, whiten = Standardise(spec), Whiten(spec)
    affine.fit([r])
    whiten.fit([r])
    torch.testing.assert_close(whiten(r), affine(r))


def test_a_release_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="expected finite numbers in a release"):
        Whiten(FeatureSpec.of((5,))).fit([torch.full((3, 5), math.nan)])


def test_names_and_sizes_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'whiten'"):
        make_standardise("whitened", FeatureSpec.of((5,)))
    with pytest.raises(UnknownNameError, match="unknown standardisation"):
        Decoder(standardise="none")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="at most 4096 channels to whiten, got 5000"):
        Whiten(FeatureSpec.of((5000,)))


class Correlate(nn.Module):
    """All channels the same texture, and a hundredth of what they were: nothing is lost, brightness is made small."""

    def __init__(self) -> None:
        super().__init__()
        bright = invertible_head()[0].weight.detach().reshape(4, 4).sum(1)
        texture = torch.tensor([1.0, 0.0, 0.0, 0.0]) - bright[0] / bright.square().sum() * bright
        self.mixing: Tensor
        self.register_buffer("mixing", texture.unsqueeze(1) + 0.01 * torch.eye(4))

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", z, self.mixing)


def test_a_head_that_correlates_its_channels_gains_nothing_against_whitening() -> None:
    attacked = subject(head=invertible_head(Correlate()))
    errors = {}
    for standardise in ("affine", "whiten"):
        attack = Decoder(channels=8, blocks=1, epochs=8, batch_size=32, lr=5e-3, standardise=standardise)  # type: ignore[arg-type]
        errors[standardise] = mse(attack.fit(view_of(attacked, pictures=pictures(160)), KEY), attacked)
    assert errors["whiten"] < 0.6 * errors["affine"]
