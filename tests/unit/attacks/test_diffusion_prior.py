"""Sampling from a diffusion model, given a release."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attack_fixtures import KEY, WHITE_BOX, auxiliary, mse, subject, view_of
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.diffusion import DiffusionInverter, Level, Restoring
from splitveil.attacks.diffusion_prior import DiffusionPrior
from splitveil.audit.suites import Entry
from splitveil.errors import MissingExtraError, SpecError
from splitveil.nets.denoiser import Denoiser
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec

PICTURE = (1, 4, 4)
TINY: dict[str, Any] = {"channels": 8, "epochs": 10, "batch_size": 32, "model_lr": 3e-3, "steps": 12, "samples": 2}


def gaussian_levels(covariance: Tensor, steps: int) -> list[Level]:
    """What a perfect denoiser of N(0, S) does: ``E[u | x_t] = sqrt(a) S (a S + (1 - a) I)^-1 x_t``."""
    identity = torch.eye(len(covariance))
    levels: list[Level] = []
    for angle in torch.linspace(1.57, 0.03, steps):
        signal = float(angle.cos() ** 2)
        gain = signal**0.5 * covariance @ torch.linalg.inv(signal * covariance + (1 - signal) * identity)
        left = (covariance - gain @ covariance * signal**0.5).trace() / len(covariance)
        levels.append(Level(signal, float(left) ** 0.5, _linear(gain)))
    return levels


def _linear(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x.flatten(1) @ matrix.T).reshape(x.shape)


@pytest.mark.parametrize("noise_std", [0.3, 1.0])
def test_with_a_perfect_denoiser_it_draws_from_the_posterior_of_a_gaussian_linear_system(noise_std: float) -> None:
    generator = torch.Generator().manual_seed(0)
    d, q, n = 16, 8, 256
    root = torch.randn(d, d, generator=generator) / 7
    covariance = root @ root.T + 0.003 * torch.eye(d)
    matrix = torch.randn(q, d, generator=generator) / 2
    u = torch.randn(n, d, generator=generator) @ torch.linalg.cholesky(covariance).T
    r = u @ matrix.T + noise_std * torch.randn(n, q, generator=generator)
    gram = matrix @ covariance @ matrix.T + noise_std**2 * torch.eye(q)
    posterior = covariance - covariance @ matrix.T @ torch.linalg.solve(gram, matrix @ covariance)
    mmse = float(posterior.trace()) / d

    def ratio(samples: int) -> float:
        inverter = DiffusionInverter(
            lambda x: (2 * x - 1).flatten(1) @ matrix.T,
            torch.tensor(noise_std**2),
            gaussian_levels(covariance, 40),
            PICTURE,
            Restoring(5, samples),
            Rng(1),
        )
        return float(((2 * inverter.reconstruct(r) - 1).flatten(1) - u).square().mean()) / mmse

    assert 1.6 < ratio(1) < 2.4, "one sample of a posterior errs twice as much as its mean"
    assert 1.0 < ratio(8) < 1.4, "and the mean of eight by an eighth more"


def test_it_breaks_a_head_that_hides_nothing() -> None:
    attacked = subject()
    view = view_of(attacked, pictures=auxiliary(128))
    found = mse(DiffusionPrior(**TINY).fit(view, KEY), attacked, 32)
    assert found < 0.1 * mse(MeanImage().fit(view, KEY), attacked, 32)
    assert view.queries == 0


def test_its_denoiser_learns() -> None:
    view = view_of(subject(), pictures=auxiliary(128))
    history = DiffusionPrior(**TINY).fit(view, KEY).facts["denoiser"]
    assert len(history) == TINY["epochs"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


@pytest.mark.parametrize("picture", [(1, 8, 8), (3, 32, 32), (1, 28, 20), (3, 5, 7)])
def test_the_denoiser_takes_pictures_of_any_size(picture: tuple[int, ...]) -> None:
    x = torch.randn(2, *picture)
    assert Denoiser(picture, channels=8)(x, torch.tensor([0, 999])).shape == x.shape


def test_without_the_package_it_says_how_to_get_it_and_a_suite_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"splitveil\[diffusion\]"):
        Denoiser((1, 8, 8), channels=8)
    monkeypatch.setattr("splitveil.audit.suites.find_spec", lambda name: None)
    reason = Entry(PlugInSpec(name="diffusion_prior")).refused(WHITE_BOX)
    assert reason == "needs splitveil[diffusion] to be installed"


@pytest.mark.parametrize("changed", [{"channels": 12}, {"steps": 1}, {"samples": 0}, {"model_lr": 0.0}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        DiffusionPrior(**changed)
