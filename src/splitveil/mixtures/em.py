"""Expectation maximisation inside each class, from the result of k-means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splitveil.mixtures.kmeans import CHUNK_VALUES
from splitveil.mixtures.tiles import Tiles

__all__ = ["VARIANCE_FLOOR", "log_density", "refine"]

VARIANCE_FLOOR = 1e-6
"""Least variance of a component, as a share of the mean variance within the clusters of all classes."""


def log_density(squares: Tensor, samples: Tensor, centroids: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """``ln w_j + ln N(z; mu_j, diag v_j)`` without the constant ``-q/2 ln 2 pi``.

    Args:
        squares: ``(t, b, q)``, of the samples.
        samples: ``(t, b, q)``.
        centroids: ``(t, m, q)``.
        variances: ``(t, m, q)``, positive.
        shares: ``(t, m)``; a component of share 0 has density 0.

    Returns:
        ``(t, b, m)``.
    """
    precision = variances.reciprocal()
    pulled = centroids * precision
    distance = torch.bmm(squares, precision.transpose(1, 2)) - 2 * torch.bmm(samples, pulled.transpose(1, 2))
    constant = shares.log() - 0.5 * ((centroids * pulled) + variances.log()).sum(2)
    return constant.unsqueeze(1) - 0.5 * distance


def refine(
    z: Tensor, tiles: Tiles, centroids: Tensor, variances: Tensor, count: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """EM steps for Gaussian mixtures with diagonal covariances, one mixture per class.

    Args:
        z: ``(n, q)``.
        tiles: of classes.
        centroids: ``(k, m, q)`` to start from.
        variances: ``(k, m, q)`` to start from, or ``(k, m, 1)``, which stay isotropic.
        count: ``(k, m)`` to start from.
        iterations: of EM.

    Returns:
        centroids, variances and (real) counts after them.
    """
    isotropic = variances.shape[2] == 1
    origin, finfo = centroids.mean(1), torch.finfo(z.dtype)
    within, between = variances.mean(2), (centroids - origin.unsqueeze(1)).square().mean(2)
    scale = VARIANCE_FLOOR * within + finfo.eps * between  # below it a density of points would not be finite
    floor = max(float((scale * count).sum() / count.sum()), finfo.tiny)
    centroids, variances, count = centroids.clone(), variances.clamp(min=floor), count.clone()
    room = CHUNK_VALUES // (tiles.rows.shape[1] * z.shape[1])
    for _ in range(iterations):
        moved = centroids - origin.unsqueeze(1)
        shares = count / count.sum(1, keepdim=True)
        spread = variances.expand_as(centroids)
        mass, first, second = torch.zeros_like(count), torch.zeros_like(centroids), torch.zeros_like(centroids)
        for part in tiles.chunks(room):
            samples = part.gather(z, origin)
            squares, at = samples.square(), part.segment
            density = log_density(squares, samples, moved[at], spread[at], shares[at])
            member = density.softmax(2) * part.real.unsqueeze(2)
            part.add(mass, member.sum(1))
            part.add(first, torch.bmm(member.transpose(1, 2), samples))
            part.add(second, torch.bmm(member.transpose(1, 2), squares))
        alive = (mass > math.sqrt(torch.finfo(z.dtype).eps)).unsqueeze(2)
        weight = mass.clamp(min=torch.finfo(z.dtype).tiny).unsqueeze(2)
        mean = first / weight
        variance = second / weight - mean.square()
        variance = (variance.mean(2, keepdim=True) if isotropic else variance).clamp(min=floor)
        centroids = torch.where(alive, mean + origin.unsqueeze(1), centroids)
        variances = torch.where(alive, variance, variances)
        count = torch.where(alive.squeeze(2), mass, torch.zeros_like(mass))
    return centroids, variances, count
