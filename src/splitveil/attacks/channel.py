"""What a white box knows about the noise of a release."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.attacks.view import AttackerView
from splitveil.contracts import NoiseSpec
from splitveil.rng import Rng

__all__ = ["KnownChannel", "silent_noises"]

_PICTURES, _DRAWS = 64, 32
_MEDIAN = {"standard_normal": 0.0, "uniform": 0.5}


def silent_noises(specs: tuple[NoiseSpec, ...], n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """Noises at the median of their laws: under them a release with symmetric additive noise is its noise-free part.

    Example:
        >>> [float(item.max()) for item in silent_noises((NoiseSpec("a", (2,), "uniform"),), 3)]
        [0.5]
    """
    return tuple(torch.full((n, *spec.shape), _MEDIAN[spec.law], device=device) for spec in specs)


@dataclass(frozen=True)
class KnownChannel:
    """The release as ``r = f(x) + noise`` of a known variance, as far as it has this form.

    Args:
        view: of an attacker who holds the weights.
        variance: of the noise in what the attacker sees, ``()`` or ``(*r)``.
    """

    view: AttackerView
    variance: Tensor

    @classmethod
    def of(cls, view: AttackerView, rng: Rng) -> KnownChannel:
        """Read the variance off the Gaussian stage where nothing follows it; measure it elsewhere.

        The stage's noise may depend on the features; its mean variance over auxiliary pictures is taken then. All
        releases of a picture together have a fraction of it.

        Raises:
            ThreatModelError: the weights, or auxiliary pictures, are not granted.
        """
        count = min(_PICTURES, len(view.auxiliary))
        x = view.auxiliary.get(torch.arange(count))
        mean = noise_free(view, x)
        channel = view.channel(x)
        if channel is not None and channel.mean.shape == mean.shape and torch.equal(channel.mean, mean):
            variance = channel.std.square().expand(mean.shape).mean(0)
        else:
            variance = _measured(view, x, rng)
        return cls(view, variance.detach() / view.threat.observations)

    def __call__(self, x: Tensor) -> Tensor:
        """The noise-free release of pictures ``(n, c, h, w)``, with gradient."""
        return self.view.simulate(x, silent_noises(self.view.noise_specs, len(x), x.device))


def noise_free(view: AttackerView, x: Tensor) -> Tensor:
    """The noise-free release, without gradient."""
    with torch.no_grad():
        return view.simulate(x, silent_noises(view.noise_specs, len(x), x.device))


def _measured(view: AttackerView, x: Tensor, rng: Rng) -> Tensor:
    """The variance of simulated releases of the same pictures, averaged over the pictures."""
    if not view.noise_specs:
        return torch.zeros((), device=x.device)
    draws = [view.simulate_with(x, rng.child("draw", number)).detach() for number in range(_DRAWS)]
    return torch.stack(draws).var(0).mean(0)
