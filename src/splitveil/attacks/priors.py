"""What pictures are like, as search attacks use it: coordinates to search in, and a negative log density."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from splitveil.attacks.inverters import mean_picture
from splitveil.attacks.view import AttackerView

__all__ = ["FlatPrior", "GaussianPrior", "Prior", "TotalVariation"]

_DARKEST = 5e-3  # of a start: a logit that a search can still move
_BATCH = 512
_KEPT = 1024  # principal axes of pictures; beyond them their variance is a rounding error
_SHRINKAGE = 1e-3
_WIDEST, _MOST_SPANNING = 8192, 4096  # values of a picture, beyond which so many pictures span the axes
_LEAST_SHARE = 1e-9  # of the largest variance: less is rounding
_FEWEST_SCALE = 1e-3


class Prior(ABC):
    """A parametrisation of pictures and their negative log density, up to a constant.

    ```
    w --[ draw ]-- picture            energy(w) = -ln p(picture) + const
    ```
    """

    @abstractmethod
    def draw(self, w: Tensor) -> Tensor:
        """``(n, *s)`` to pictures ``(n, c, h, w)``."""

    @abstractmethod
    def energy(self, w: Tensor) -> Tensor:
        """``(n, *s)`` to ``(n,)``, in nats."""

    @abstractmethod
    def locate(self, x: Tensor) -> Tensor:
        """Coordinates of pictures, as near as the parametrisation comes."""

    @abstractmethod
    def start(self, n: int, generator: torch.Generator, spread: float) -> Tensor:
        """Coordinates around a typical picture."""


class FlatPrior(Prior):
    """Any picture in (0, 1) is as good as another: ``x = sigmoid(w)``.

    Args:
        centre: ``(c, h, w)``, where searches start.
    """

    def __init__(self, centre: Tensor) -> None:
        self.centre = torch.logit(centre, eps=_DARKEST)

    def draw(self, w: Tensor) -> Tensor:
        """In (0, 1)."""
        return w.sigmoid()

    def energy(self, w: Tensor) -> Tensor:
        """Nothing."""
        return w.new_zeros(len(w))

    def locate(self, x: Tensor) -> Tensor:
        """Logits."""
        return torch.logit(x, eps=_DARKEST)

    def start(self, n: int, generator: torch.Generator, spread: float) -> Tensor:
        """The centre, and noise."""
        noise = torch.randn((n, *self.centre.shape), generator=generator).to(self.centre)
        return self.centre + spread * noise


class TotalVariation(FlatPrior):
    """Differences of neighbours are Laplace: ``energy = sum |x_i - x_j| / b``.

    Args:
        centre: see `FlatPrior`.
        scale: b, the mean absolute difference of neighbours.
        weight: factor of the energy.
    """

    def __init__(self, centre: Tensor, scale: float, weight: float) -> None:
        super().__init__(centre)
        self.scale, self.weight = max(scale, _FEWEST_SCALE), weight

    def energy(self, w: Tensor) -> Tensor:
        """Anisotropic total variation over b."""
        down, right = (step.abs().flatten(1).sum(1) for step in differences(w.sigmoid()))
        return self.weight * (down + right) / self.scale


class GaussianPrior(Prior):
    """``x = mean + U sqrt(l) w`` with w standard normal, U the principal axes of auxiliary pictures, l their variances.

    Args:
        mean: ``(c, h, w)``.
        axes: ``U sqrt(l)``, ``(d, k)``.
        inverse: ``(k, d)``, its left inverse.
        weight: factor of the energy.
    """

    def __init__(self, mean: Tensor, axes: Tensor, inverse: Tensor, weight: float) -> None:
        self.mean, self.axes, self.inverse, self.weight = mean, axes, inverse, weight

    @classmethod
    def fit(cls, x: Tensor, weight: float) -> GaussianPrior:
        """From pictures ``(n, c, h, w)``; their covariance is shrunk by a thousandth towards the identity.

        Of large pictures, axes that the first few thousand of them do not span are left out.
        """
        rows = x.flatten(1)
        mean = rows.mean(0, dtype=torch.float64)
        variances, axes = _principal(rows, mean)
        level = variances.sum() / rows.shape[1]
        variances, axes = (1 - _SHRINKAGE) * variances[-_KEPT:] + _SHRINKAGE * level, axes[:, -_KEPT:]
        scale = variances.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        inverse = (axes / scale).T
        return cls(mean.to(x).reshape(x.shape[1:]), (axes * scale).to(x), inverse.to(x), weight)

    def draw(self, w: Tensor) -> Tensor:
        """May leave [0, 1], as a Gaussian does."""
        return self.mean + (w @ self.axes.T).reshape(-1, *self.mean.shape)

    def energy(self, w: Tensor) -> Tensor:
        """``|w|^2 / 2``."""
        return self.weight * w.square().sum(1) / 2

    def locate(self, x: Tensor) -> Tensor:
        """Projection onto the axes."""
        return (x - self.mean).flatten(1) @ self.inverse.T

    def start(self, n: int, generator: torch.Generator, spread: float) -> Tensor:
        """The mean, and a draw of the prior, scaled."""
        return spread * torch.randn((n, self.axes.shape[1]), generator=generator).to(self.axes)


def _principal(rows: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Variances, ascending, ``(k,)``, and axes ``(d, k)`` of rows ``(n, d)``, float64."""
    n, d = rows.shape
    if d <= _WIDEST:
        variances, axes = torch.linalg.eigh(torch.cov(rows.double().T, correction=0).reshape(d, d))
        return variances, axes
    few = rows[: min(n, _MOST_SPANNING)].double() - mean
    squares, turned = torch.linalg.eigh(few @ few.T)
    known = squares > squares[-1] * _LEAST_SHARE
    variances, turned = squares[known] / len(few), turned[:, known]
    return variances, few.T @ (turned / squares[known].sqrt())


def differences(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours, down and to the right."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def neighbour_scale(x: Tensor) -> float:
    """The mean absolute difference of neighbours in pictures ``(n, c, h, w)``."""
    steps = [step.abs().flatten() for step in differences(x)]
    return float(torch.cat(steps).mean())


def all_pictures(view: AttackerView) -> Tensor:
    """All auxiliary pictures, ``(n, c, h, w)``."""
    return torch.cat(list(view.auxiliary.batches(_BATCH)))


def centre_of(view: AttackerView) -> Tensor:
    """The mean auxiliary picture, or grey where there is none."""
    if view.threat.auxiliary == "none":
        return torch.full(view.input_shape, 0.5)
    return mean_picture(view.auxiliary.batches(_BATCH))
