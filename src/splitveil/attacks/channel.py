"""What a white box knows about the noise of a release."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from splitveil.attacks.view import AttackerView
from splitveil.combining import passed
from splitveil.contracts import NoiseSpec
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

__all__ = ["KnownChannel", "noise_free", "probes", "seen", "silent_noises"]

_PICTURES, _DRAWS = 64, 32
_EXPECTED = 8  # draws whose mean stands for the expected release
_CHANCE = 2.0  # times the squared error that the mean of so many draws has by chance
_GREY, _CONTRAST = 0.5, 0.1  # of what stands for pictures where there are none
_MEDIAN = {"standard_normal": 0.0, "uniform": 0.5}


def silent_noises(specs: tuple[NoiseSpec, ...], n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """Noises at the median of their laws: under them a release with symmetric additive noise is its noise-free part.

    Example:
        >>> [float(item.max()) for item in silent_noises((NoiseSpec("a", (2,), "uniform"),), 3)]
        [0.5]
    """
    return tuple(torch.full((n, *spec.shape), _MEDIAN[spec.law], device=device) for spec in specs)


def probes(view: AttackerView, most: int) -> Tensor:
    """Pictures to look through a channel with, ``(n, c, h, w)``: the attacker's first, or blots where it has none.

    Blots are of all sizes, as what pictures show is: grey and, at each scale from one pixel to the whole, noise.
    """
    if view.threat.auxiliary != "none":
        return view.auxiliary.get(torch.arange(min(most, len(view.auxiliary))))
    (channels, *sides), generator = view.input_shape, Rng(0).child("probes").generator()
    x = torch.full((most, channels, *sides), _GREY)
    for size in (2**power for power in range(max(sides).bit_length())):
        coarse = [-(-side // size) for side in sides]
        blots = torch.randn((most, channels, *coarse), generator=generator)
        x = x + _CONTRAST * functional.interpolate(blots, sides, mode="nearest")
    return x.clamp(0, 1).to(view.device)


@dataclass(frozen=True)
class KnownChannel:
    """The release as ``r = f(x) + noise`` of a known variance, f the release that is expected of a picture.

    Where noise is added and symmetric, f is the noise-free release. Elsewhere, as behind a clip of it, f is the mean
    over draws that are the same for all pictures and every call. Behind a mask f is what would be expected without
    it, and holds where a release shows a value.

    Args:
        view: of an attacker who holds the weights; behind a mask, of the wire without it.
        variance: of the noise in what the attacker sees, ``()`` or ``(*r)``.
        draws: of the noise, a row each, for all releases of a picture in turn; none where f is the noise-free release.
        masked: of the same attacker and the wire with its mask, where there is one: what it hides arrives as zeros.
    """

    view: AttackerView
    variance: Tensor
    draws: tuple[tuple[Tensor, ...], ...] = ()
    masked: AttackerView | None = None

    @classmethod
    def of(cls, view: AttackerView, rng: Rng) -> KnownChannel:
        """Read the variance off the Gaussian stage where nothing else happens to the release; measure it elsewhere.

        The stage's noise may depend on the features; its mean variance over auxiliary pictures is taken then. All
        releases of a picture together have a fraction of it.

        Raises:
            ThreatModelError: the weights are not granted.
        """
        x = probes(view, _PICTURES)
        unmasked = view.unmasked() if view.noise_specs else None  # without noise, a guess gets the mask of the truth
        if unmasked is not None:
            channel = replace(cls.of(unmasked, rng.child("unmasked")), masked=view)
            return channel if view.threat.observations == 1 else channel._of_several(x, rng)
        std = _gaussian_std(view, x, rng.child("check"))
        if std is not None:
            return cls(view, std.square().mean(0) / view.threat.observations)
        if not view.noise_specs:
            return cls(view, torch.zeros((), device=x.device))
        with torch.no_grad():
            draws = torch.stack([seen(view, x, rng.child("draw", number)) for number in range(_DRAWS)])
        variance = draws.var(0)
        missed = (draws.mean(0) - noise_free(view, x)).square()
        if float(missed.mean()) <= _CHANCE * float(variance.mean()) / _DRAWS:
            return cls(view, variance.mean(0))
        rows = range(_EXPECTED * view.threat.observations)
        return cls(view, variance.mean(0), tuple(view.draw(rng.child("expected", number)) for number in rows))

    @property
    def is_additive(self) -> bool:
        """Whether a release is the noise-free one and noise."""
        return not self.draws and self.masked is None

    def _of_several(self, x: Tensor, rng: Rng) -> KnownChannel:
        """With the variance of several releases together, measured where they show a value."""
        total, count = torch.zeros(()), torch.zeros(())
        with torch.no_grad():
            expected = self(x)
            for number in range(_DRAWS):
                r = seen(cast(AttackerView, self.masked), x, rng.child("several", number))
                shown = passed(r, self.view.zero)
                total = total.to(r) + ((r - expected).square() * shown).sum(0)
                count = count.to(r) + shown.sum(0)
        pooled = total.sum() / count.sum().clamp_min(1)
        return replace(self, variance=torch.where(count < _DRAWS, pooled, total / count.clamp_min(1)))

    def misses(self, expected: Tensor, r: Tensor) -> Tensor:
        """By how much f misses releases ``(n, *r)``: ``f - r``, and where a mask hides r, what it cannot hide."""
        if self.masked is None:
            return expected - r
        shown = passed(r, self.view.zero)
        within = self.masked.hidden_within(torch.where(shown, r, 0.0))
        hidden = torch.zeros_like(r) if within is None else (expected.abs() - within).relu()
        return torch.where(shown, expected - r, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """The expected release of pictures ``(n, c, h, w)``, with gradient."""
        if not self.draws:
            return _silent(self.view, x)
        releases = torch.stack(self.view.simulate_all(x, self.draws), dim=1)
        count = self.view.threat.observations
        if count > 1:
            parts = torch.split(releases, count, dim=1)
            releases = torch.stack([self.view.combine(part) for part in parts], dim=1)
        return releases.mean(1)


def noise_free(view: AttackerView, x: Tensor) -> Tensor:
    """The noise-free release of pictures ``(n, c, h, w)``, without gradient."""
    with torch.no_grad():
        return _silent(view, x)


def _silent(view: AttackerView, x: Tensor) -> Tensor:
    return view.simulate(x, silent_noises(view.noise_specs, len(x), x.device))


def _gaussian_std(view: AttackerView, x: Tensor, rng: Rng) -> Tensor | None:
    """``(n, *r)``, where each release is the Gaussian stage's and nothing else, as a draw of it shows; else None."""
    channel = view.channel(x)
    if channel is None or len(view.noise_specs) != 1 or view.noise_specs[0].law != "standard_normal":
        return None
    noise = SeededNoise(rng, device=x.device).draw(view.noise_specs[0], len(x))
    with torch.no_grad():
        released = view.simulate(x, (noise,))
    if channel.mean.shape != released.shape or noise.shape != released.shape:
        return None
    std = channel.std.expand(released.shape).detach()
    return std if torch.allclose(released, channel.mean + std * noise, atol=1e-6) else None


def seen(view: AttackerView, x: Tensor, rng: Rng) -> Tensor:
    """What the attacker sees of pictures under noise of this key, with gradient: of all releases together."""
    count = view.threat.observations
    if count == 1:
        return view.simulate_with(x, rng)
    return view.combine(torch.stack([view.simulate_with(x, rng.child(number)) for number in range(count)], dim=1))
