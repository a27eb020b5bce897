"""The linear attack: the posterior mean of a Gaussian picture behind a linear head, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from splitveil.attacks.channel import KnownChannel, noise_free, seen
from splitveil.attacks.inverters import LinearInverter
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Linear", "posterior_gain"]

_BATCH = 512
_FEWEST_PICTURES = 8
_MOMENTS = {(True, True): "noise-free releases", (True, False): "simulated releases", (False, False): "pairs"}
_SHRINKAGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Linear(Attack):
    """The best linear estimate from second moments.

    ```
    picture = E x + Cov(x, r) (Cov(r) + a t I)^-1 (r - E r),      t the mean variance of a dimension of r
    ```

    An attacker who holds the weights takes the moments of the noise-free release, and adds the noise's own
    covariance, which it knows; where noise is not added, as by a mask, it simulates releases. Another takes them from
    pairs. Where pictures are Gaussian, the head is linear and the
    noise is Gaussian, the first is the posterior mean, which no attacker beats.

    Args:
        shrinkage: a; None to choose it on held-out auxiliary pictures.
        pictures: the most auxiliary pictures to use.
        val_share: share of them held out to choose.

    Raises:
        SpecError: a value out of range.

    Reference:
        Kay: Fundamentals of Statistical Signal Processing, Estimation Theory, 1993, theorem 12.1.
    """

    name: ClassVar[str] = "linear"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})

    shrinkage: float | None = None
    pictures: int = 8192
    val_share: float = 0.1

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 0 <= self.shrinkage < math.inf:
            raise SpecError(f"expected shrinkage >= 0 or None, got {self.shrinkage}")
        if self.pictures < _FEWEST_PICTURES or not 0 < self.val_share < 1:
            raise SpecError(f"expected pictures >= {_FEWEST_PICTURES} and 0 < val_share < 1, got {self}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        x, r, noise = self._moments_of(held, rng)
        held_out = max(1, round(self.val_share * len(x)))
        choices = _SHRINKAGES if self.shrinkage is None else (self.shrinkage,)
        errors: dict[float, float] = {}
        for shrinkage in choices if len(choices) > 1 else ():
            gain, mean_x, mean_r = posterior_gain(x[held_out:], r[held_out:], noise, shrinkage)
            seen = r[:held_out] + _draw_like(noise, r[:held_out], rng.child("held out"))
            errors[shrinkage] = float((mean_x + (seen - mean_r) @ gain - x[:held_out]).square().mean())
        chosen = min(errors, key=errors.__getitem__) if errors else choices[0]
        gain, mean_x, mean_r = posterior_gain(x, r, noise, chosen)
        inverter = LinearInverter(held.release_spec, held.input_shape).to(held.auxiliary.device)
        inverter.weight.copy_(gain)
        inverter.bias.copy_(mean_x - mean_r @ gain)
        inverter.facts = {
            "shrinkage": chosen,
            "val_mse": {f"{key:g}": value for key, value in errors.items()},
            "pictures": len(x),
            "moments": _MOMENTS[held.threat.allows("weights"), noise is not None],
        }
        inverter.eval()
        return inverter

    def _moments_of(self, view: AttackerView, rng: Rng) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pictures and releases as float64 rows, and the variance of the noise that these releases lack."""
        order = torch.randperm(len(view.auxiliary), generator=rng.child("order").generator())
        if view.threat.allows("weights"):
            indices = order[: self.pictures]
            channel = KnownChannel.of(view, rng.child("channel"))
            if not channel.is_additive:
                with torch.no_grad():
                    batches = enumerate(_batches(view, indices))
                    rows = [(x, seen(view, x, rng.child("seen", step))) for step, x in batches]
                return _rows(rows, 0), _rows(rows, 1), None
            rows = [(x, noise_free(view, x)) for x in _batches(view, indices)]
            variance = channel.variance.double().expand(view.release_spec.shape).flatten()
            return _rows(rows, 0), _rows(rows, 1), variance
        indices = order[: view.affordable(_FEWEST_PICTURES, self.pictures)]
        chunks = torch.split(indices, _BATCH)
        rows = [view.pairs(chunk, rng.child("pairs", step)) for step, chunk in enumerate(chunks)]
        return _rows(rows, 0), _rows(rows, 1), None


def posterior_gain(
    x: Tensor, r: Tensor, noise_variance: Tensor | None, shrinkage: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gain ``G = (Cov(r) + N + a t I)^-1 Cov(r, x)`` and the means.

    Args:
        x: ``(n, d)``, float64.
        r: ``(n, q)``, float64, releases, or their noise-free parts.
        noise_variance: ``(q,)`` diagonal of N, or None where r holds its noise.
        shrinkage: a.

    Returns:
        G ``(q, d)``, the mean picture ``(d,)`` and the mean release ``(q,)``.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
        >>> gain, _, _ = posterior_gain(x, 2 * x, None, 0.0)
        >>> round(float(gain), 6)
        0.5
    """
    mean_x, mean_r = x.mean(0), r.mean(0)
    rows = r - mean_r
    covariance = rows.T @ rows / len(r)
    level = covariance.diagonal().mean()
    diagonal = covariance.diagonal()
    if noise_variance is not None:
        diagonal += noise_variance
    diagonal += shrinkage * level
    cross = rows.T @ (x - mean_x) / len(x)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):  # dimensions that say nothing, or nothing new: the least-squares solution leaves them out
        return torch.linalg.pinv(covariance, hermitian=True) @ cross, mean_x, mean_r
    return torch.cholesky_solve(cross, factor), mean_x, mean_r


def _batches(view: AttackerView, indices: Tensor) -> Iterator[Tensor]:
    return (view.auxiliary.get(chunk) for chunk in torch.split(indices, _BATCH))


def _rows(pairs: list[tuple[Tensor, Tensor]], which: int) -> Tensor:
    return torch.cat([pair[which].flatten(1).double() for pair in pairs])


def _draw_like(variance: Tensor | None, rows: Tensor, rng: Rng) -> Tensor:
    """Noise of this variance for releases that lack it, nothing for those that have theirs."""
    if variance is None:
        return torch.zeros((), dtype=rows.dtype, device=rows.device)
    drawn = torch.randn(rows.shape, generator=rng.generator(), dtype=rows.dtype).to(rows.device)
    return drawn * variance.sqrt()
