"""How an attack rescales releases before it learns from them: per channel, or with the channels' correlations too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec, check_finite
from splitveil.errors import SpecError, UnknownNameError

__all__ = ["Standardisation", "Standardise", "Whiten", "check_standardisation", "make_standardise"]

Standardisation = Literal["affine", "whiten"]

_STD_FLOOR = 1e-6  # of the largest magnitude: below it a channel holds rounding errors of float32 only
_LEAST_SHRINKAGE = 1e-6  # bounds the gain of a direction at a thousand: float32 holds no more
MOST_WHITENED = 4096  # the covariance takes the square of this, the eigenvectors the cube


class Standardise(nn.Module):
    """``(r - mean) / std`` per channel, fitted on releases: a defense that only shrinks its features gains nothing.

    Args:
        release: spec of r; a vector has one channel per value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, release: FeatureSpec) -> None:
        super().__init__()
        self._axis = release.channel_axis + 1
        shape = [1] * len(release.shape)
        shape[release.channel_axis] = release.shape[release.channel_axis]
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, releases: Iterable[Tensor]) -> None:
        """Measure mean and standard deviation over all rows and positions; dead channels keep a floor.

        Raises:
            InputError: a release that is not finite.
        """
        count, first, second, shift = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
        for r in releases:
            check_finite(r, "a release", "repair the model or its mechanism before it is attacked")
            rows = self._channels(r)
            if count == 0:
                shift = rows.mean(1, keepdim=True)  # near the mean, so that the squares do not cancel
                first = second = torch.zeros_like(shift)
            count += rows.shape[1]
            first = first + (rows - shift).sum(1, keepdim=True)
            second = second + (rows - shift).square().sum(1, keepdim=True)
        mean = first / count
        std = (second / count - mean.square()).clamp_min(0.0).sqrt()
        mean = mean + shift
        floor = _STD_FLOOR * torch.maximum(mean.abs(), std.max())
        std = torch.where(std > floor, std, floor)
        std = torch.where(std > 0, std, torch.ones_like(std))
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.reshape(self.std.shape))

    def _channels(self, r: Tensor) -> Tensor:
        """``(channels, rows x positions)``, float64."""
        return r.detach().double().movedim(self._axis, 0).flatten(1)

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to the same shape."""
        return (r - self.mean) / self.std


class Whiten(Standardise):
    """``R^(-1/2) (r - mean) / std`` over the channels, R their correlations: a defense that correlates gains nothing.

    R is the sample's correlation matrix C shrunk to ``(1 - a) C + a I`` with the oracle-approximating a. The root is
    the symmetric one, in float64, so that a channel stays near itself; a channel that does not vary is left alone.

    Args:
        release: spec of r; a vector has one channel per value.

    Raises:
        SpecError: more than 4,096 channels.

    Example:
        >>> whiten = Whiten(FeatureSpec.of((2,)))
        >>> mixed = torch.tensor([[1.0, 0.8], [0.0, 0.6]])
        >>> r = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)) @ mixed
        >>> whiten.fit([r])
        >>> [round(abs(float(value)), 1) for value in whiten(r).T.cov().flatten()]
        [1.0, 0.0, 0.0, 1.0]

    Reference:
        Chen, Wiesel, Eldar and Hero 2010, equation 23 (the shrinkage).
    """

    mixing: Tensor

    def __init__(self, release: FeatureSpec) -> None:
        super().__init__(release)
        channels = release.shape[release.channel_axis]
        if channels > MOST_WHITENED:
            raise SpecError(
                f"expected at most {MOST_WHITENED} channels to whiten, got {channels}: use standardise='affine'"
            )
        self.register_buffer("mixing", torch.eye(channels))

    def fit(self, releases: Iterable[Tensor]) -> None:
        """Measure mean, standard deviation and correlations over all rows and positions.

        Raises:
            InputError: a release that is not finite.
        """
        count, total, cross, shift = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())

        def watched() -> Iterator[Tensor]:
            nonlocal count, total, cross, shift
            for r in releases:
                yield r  # checked by who reads it, before it is summed here
                rows = self._channels(r)
                if count == 0:
                    shift = rows.mean(1, keepdim=True)
                count += rows.shape[1]
                total = total.to(rows) + (rows - shift).sum(1)
                cross = cross.to(rows) + (rows - shift) @ (rows - shift).T

        super().fit(watched())
        covariance = cross / count - torch.outer(total, total) / count**2
        std = self.std.double().flatten()
        correlation = covariance / torch.outer(std, std)
        correlation.fill_diagonal_(1.0)  # a dead channel's floor would be far below it
        shrinkage = max(_shrinkage(correlation, count), _LEAST_SHRINKAGE)
        values, vectors = torch.linalg.eigh((1.0 - shrinkage) * correlation)
        self.mixing.copy_((vectors * (values + shrinkage).clamp_min(_LEAST_SHRINKAGE).rsqrt()) @ vectors.T)

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to the same shape."""
        return (super().forward(r).movedim(self._axis, -1) @ self.mixing).movedim(-1, self._axis)


def _shrinkage(covariance: Tensor, count: int) -> float:
    """The oracle-approximating share a of the identity, in [0, 1], for n samples; its terms of order 1/p left out."""
    squares, trace = float(covariance.square().sum()), float(covariance.trace())
    excess = (count + 1) * (squares - trace**2 / len(covariance))
    return min(1.0, (squares + trace**2) / excess) if excess > 0 else 1.0


def check_standardisation(name: str) -> None:
    """Raise `UnknownNameError` unless the name is a `Standardisation`."""
    if name not in get_args(Standardisation):
        raise UnknownNameError("standardisation", name, get_args(Standardisation))


def make_standardise(name: str, release: FeatureSpec) -> Standardise:
    """The module of that name for releases of this spec, not yet fitted.

    Raises:
        UnknownNameError: no such standardisation.

    Example:
        >>> type(make_standardise("whiten", FeatureSpec.of((3, 4, 4)))).__name__
        'Whiten'
    """
    check_standardisation(name)
    return Whiten(release) if name == "whiten" else Standardise(release)
