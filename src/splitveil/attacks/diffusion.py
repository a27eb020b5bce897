"""Sampling from what a diffusion model holds likely, given a release: denoise, fit to the release, add noise again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitveil.contracts import Inverter
from splitveil.rng import Rng

__all__ = ["DiffusionInverter", "Level", "Restoring"]

_FRESH = 0.5  # share of the noise that is drawn anew at each level


@dataclass(frozen=True, slots=True)
class Level:
    """One level of noise: ``x_t = sqrt(a) u + sqrt(1 - a) noise``, u the picture in [-1, 1].

    Args:
        signal: a.
        error: root mean squared error of the denoiser there, the distance that a fit may go.
        denoise: ``(n, c, h, w)`` noisy to its expectation of u.
    """

    signal: float
    error: float
    denoise: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Restoring:
    """How to sample.

    Args:
        fits: steps towards the release at each level.
        samples: pictures per release; their mean is the answer, as the mean of the posterior has the least error.
    """

    fits: int
    samples: int


class DiffusionInverter(Inverter):
    """Decoupled posterior sampling, from much noise to little.

    ```
    x_t --[ denoise ]-- u --[ argmin |f(u') - r|^2 / (2 v) + |u' - u|^2 / (2 error^2) ]-- u' --[ noise ]-- x_(t-1)
    ```

    Args:
        simulate: ``(n, c, h, w)`` in [0, 1] to what is compared with r, with gradient.
        variance: v, ``()`` or ``(*r)``.
        levels: from much noise to little.
        picture: ``(c, h, w)``.
        restoring: how.
        rng: of all noise.
        misses: from what is simulated and r to what is squared, ``f - r`` unless told otherwise.

    Reference:
        Zhu et al.: Denoising Diffusion Models for Plug-and-Play Image Restoration, CVPRW 2023 (DiffPIR).
    """

    searches = True

    def __init__(
        self,
        simulate: Callable[[Tensor], Tensor],
        variance: Tensor,
        levels: Sequence[Level],
        picture: tuple[int, ...],
        restoring: Restoring,
        rng: Rng,
        misses: Callable[[Tensor, Tensor], Tensor] = torch.sub,
    ) -> None:
        super().__init__()
        self._simulate, self._variance, self._levels = simulate, variance, levels
        self._picture, self._restoring, self._rng, self._misses = picture, restoring, rng, misses
        self.facts: dict[str, Any] = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """The mean over samples, in [0, 1]."""
        drawn = [self._sample(r.detach(), number) for number in range(self._restoring.samples)]
        return torch.stack(drawn).mean(0)

    def _sample(self, r: Tensor, sample: int) -> Tensor:
        rng = self._rng.child("sample", sample)
        noisy = self._noise(r, rng.child("start"))
        for number, level in enumerate(self._levels):
            with torch.no_grad():
                expected = level.denoise(noisy)
            fitted = self._fit(expected, r, level.error)
            self.report((sample + (number + 1) / len(self._levels)) / self._restoring.samples)
            if number + 1 < len(self._levels):
                found = (noisy - level.signal**0.5 * fitted) / (1 - level.signal) ** 0.5
                fresh = self._noise(r, rng.child("level", number))
                noise = (1 - _FRESH) ** 0.5 * found + _FRESH**0.5 * fresh
                signal = self._levels[number + 1].signal
                noisy = signal**0.5 * fitted + (1 - signal) ** 0.5 * noise
        return (fitted + 1) / 2

    def _fit(self, expected: Tensor, r: Tensor, error: float) -> Tensor:
        """Adam from what the denoiser expects, by steps that together go twice as far as it errs."""
        u = expected.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([u], lr=2 * error / self._restoring.fits)
        with torch.enable_grad():
            for _ in range(self._restoring.fits):
                missed = self._misses(self._simulate((u + 1) / 2), r).square() / (2 * self._variance)
                objective = missed.sum() + (u - expected).square().sum() / (2 * error**2)
                u.grad = torch.autograd.grad(objective, u)[0]
                optimiser.step()
        return u.detach()

    def _noise(self, r: Tensor, rng: Rng) -> Tensor:
        return torch.randn((len(r), *self._picture), generator=rng.generator()).to(r)
