"""Rebuild pictures with a diffusion model that has learned from auxiliary ones what pictures are like."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from splitveil.attacks.channel import KnownChannel
from splitveil.attacks.diffusion import DiffusionInverter, Level, Restoring
from splitveil.attacks.learned_once import Learned, learn_once
from splitveil.attacks.optimise import trusted_variance
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError, TrainingError
from splitveil.nets.denoiser import GROUPS, Denoiser, require_diffusers
from splitveil.rng import Rng
from splitveil.stepping import take_step
from splitveil.threats import Grant

__all__ = ["DiffusionPrior"]

_LEVELS = 1000  # of noise in training
_AVERAGING = 0.995
_MEASURED = 128  # pictures that the denoiser's error is measured on
_LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class DiffusionPrior(Attack):
    """Train a diffusion model on auxiliary pictures, then sample from it, fitted to each release.

    ```
    auxiliary pictures --[ noise, U-Net ]-- denoiser;      denoise, fit |f(u) - r|^2 / (2 v), noise again, `steps` times
    ```

    The model knows the pictures alone: it is kept in the cache, for the next audit with the same ones.

    Args:
        channels: of the U-Net, a multiple of 8.
        epochs: passes over the auxiliary pictures.
        batch_size: of the training.
        model_lr: of AdamW.
        steps: levels of noise that a sample passes.
        fits: steps towards the release at each level.
        samples: pictures per release, of which the mean is taken.

    Raises:
        SpecError: a value out of range.
        MissingExtraError: diffusers is not installed.
        TrainingError: the model diverged.

    Reference:
        Ho et al., NeurIPS 2020; Zhu et al.: DiffPIR, CVPRW 2023; Chen et al.: DRAG, 2025 (guided diffusion as an
        inversion attack).
    """

    name: ClassVar[str] = "diffusion_prior"
    needs: ClassVar[frozenset[Grant]] = frozenset({"weights"})
    package: ClassVar[tuple[str, str] | None] = ("diffusers", "diffusion")

    channels: int = 32
    epochs: int = 100
    batch_size: int = 64
    model_lr: float = 4e-4
    steps: int = 50
    fits: int = 5
    samples: int = 8

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.fits, self.samples) < 1 or not 2 <= self.steps <= _LEVELS:
            raise SpecError(f"expected epochs, batch_size, fits, samples >= 1 and 2 <= steps <= {_LEVELS}, got {self}")
        if self.channels < GROUPS or self.channels % GROUPS or not 0 < self.model_lr < math.inf:
            raise SpecError(f"expected channels in multiples of {GROUPS} and model_lr > 0, got {self}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        channel = KnownChannel.of(held, rng.child("channel"))
        signals = _signals()
        denoiser, history = self._learn(held, signals, rng.child("denoiser"))
        levels = self._levels(denoiser, held, signals, rng.child("errors"))
        inverter = DiffusionInverter(
            channel,
            trusted_variance(channel),
            levels,
            held.input_shape,
            Restoring(self.fits, self.samples),
            rng.child("samples"),
            misses=channel.misses,
        )
        inverter.facts = {"denoiser": history, "steps": self.steps, "samples": self.samples}
        return inverter

    def _learn(self, view: AttackerView, signals: Tensor, rng: Rng) -> tuple[Denoiser, list[dict[str, Any]]]:
        """The denoiser of these pictures, learned by now or by an earlier audit."""
        with rng.child("weights").scoped():
            denoiser = Denoiser(view.input_shape, channels=self.channels).to(view.auxiliary.device)
        learning = {name: getattr(self, name) for name in ("channels", "epochs", "batch_size", "model_lr")}
        what = Learned(self.name, learning, rng, (type(self), Denoiser), packages=("torch", "diffusers"))
        return learn_once(what, view, copy.deepcopy(denoiser), lambda: self._train(denoiser, view, signals, rng))

    def _train(
        self, denoiser: Denoiser, view: AttackerView, signals: Tensor, rng: Rng
    ) -> tuple[Denoiser, list[dict[str, Any]]]:
        """The moving average of a network that finds the noise in pictures."""
        device, count = view.auxiliary.device, len(view.auxiliary)
        average = AveragedModel(denoiser, avg_fn=_averaged)
        optimiser = torch.optim.AdamW(denoiser.parameters(), lr=self.model_lr)
        history: list[dict[str, Any]] = []
        for epoch in range(self.epochs):
            order = torch.randperm(count, generator=rng.child("order", epoch).generator())
            batches = order.tensor_split(-(-count // self.batch_size))
            total = torch.zeros((), dtype=torch.float64)
            for step, indices in enumerate(batches):
                key = rng.child("noise", epoch, step).generator()
                level = torch.randint(_LEVELS, (len(indices),), generator=key).to(device)
                noisy, noise = _noised(view.auxiliary.get(indices), signals.to(device)[level], key)
                loss = functional.mse_loss(denoiser(noisy, level), noise)
                take_step(optimiser, loss)
                average.update_parameters(denoiser)
                total += loss.detach().double().cpu()
            if not math.isfinite(float(total)):
                raise TrainingError(f"the diffusion model diverged in epoch {epoch}: lower model_lr")
            history.append({"epoch": epoch, "loss": float(total) / len(batches)})
            if view.progress is not None:
                view.progress({**history[-1], "epochs": self.epochs})
        return cast(Denoiser, average.module).requires_grad_(False).eval(), history

    def _levels(self, denoiser: Denoiser, view: AttackerView, signals: Tensor, rng: Rng) -> list[Level]:
        """Levels of noise, evenly spaced, each with the error that the denoiser makes there."""
        x = view.auxiliary.get(torch.arange(min(_MEASURED, len(view.auxiliary))))
        found: list[Level] = []
        for number in torch.linspace(_LEVELS - 1, 0, self.steps).round().long().tolist():
            signal = float(signals[number])
            noisy, _ = _noised(x, signals[number].to(x).expand(len(x)), rng.child("level", number).generator())
            level = Level(signal, 0.0, _Expectation(denoiser, number, signal))
            with torch.no_grad():
                error = float((level.denoise(noisy) - (2 * x - 1)).square().mean().sqrt())
            found.append(Level(signal, max(error, _LEAST_ERROR), level.denoise))
        return found


@dataclass(frozen=True)
class _Expectation:
    """``E[u | x_t] = (x_t - sqrt(1 - a) noise(x_t)) / sqrt(a)``, in [-1, 1]."""

    denoiser: Denoiser
    number: int
    signal: float

    def __call__(self, noisy: Tensor) -> Tensor:
        level = torch.full((len(noisy),), self.number, device=noisy.device)
        noise = self.denoiser(noisy, level)
        clean: Tensor = (noisy - (1 - self.signal) ** 0.5 * noise) / self.signal**0.5
        return clean.clamp(-1.0, 1.0)


def _averaged(held: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """An exponential average whose memory grows with what there is to remember."""
    return held.lerp(new, 1 - min(_AVERAGING, (1 + int(count)) / (10 + int(count))))


def _signals() -> Tensor:
    """The share of the signal's power at each level: the cosine-squared schedule of diffusers."""
    scheduler = require_diffusers().DDPMScheduler(_LEVELS, beta_schedule="squaredcos_cap_v2")
    signals: Tensor = scheduler.alphas_cumprod
    return signals


def _noised(x: Tensor, signal: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] as noisy ones in [-1, 1], and the noise."""
    noise = torch.randn(x.shape, generator=generator).to(x)
    share = signal.to(x).reshape(-1, 1, 1, 1)
    return share.sqrt() * (2 * x - 1) + (1 - share).sqrt() * noise, noise
