"""Covariances of the components of a mixture, and what the loss reads from ``V = S + N`` with N the noise's.

| kind | S | stored | V^-1 |
|---|---|---|---|
| isotropic | ``v I`` | v ``(K, 1)`` | ``1 / (v + N)`` |
| diagonal | ``diag(v)`` | v ``(K, q)`` | ``1 / (v + N)`` |
| low_rank | ``diag(u) + U U^T``, u = v - diag(U U^T) | v ``(K, q)``, U ``(K, q, r)`` | ``D^-1 - W W^T``, D = u + N |
| full | any | S ``(K, q, q)`` | ``P^T P``, P the inverse of V's Cholesky factor |

The inverse of low_rank is Woodbury's. K components in all. Every function works on all of them at once.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from splitveil.errors import SpecError, UnknownNameError
from splitveil.mixtures.tiles import Tiles

__all__ = [
    "Covariance",
    "check_covariance",
    "full_covariances",
    "full_root",
    "low_rank_factors",
    "low_rank_root",
    "revived",
]

Covariance = Literal["isotropic", "diagonal", "low_rank", "full"]

_LARGEST_FULL = 1 << 29  # values of all full covariances together: 2 GB in float32
_POWER_STEPS = 4


def check_covariance(covariance: str, components: int, q: int, rank: int) -> None:
    """Raise `SpecError` for a covariance that is not known, or too large to hold."""
    if covariance not in get_args(Covariance):
        raise UnknownNameError("covariance", covariance, get_args(Covariance))
    if covariance == "low_rank" and not 1 <= rank <= q:
        raise SpecError(f"expected a rank from 1 to the feature's {q} dimensions, got {rank}")
    if covariance == "full" and components * q * q > _LARGEST_FULL:
        raise SpecError(
            f"expected full covariances of at most {_LARGEST_FULL:,} values, got {components} components of "
            f"{q} x {q}: use covariance 'low_rank', fewer clusters, or a projection"
        )


def full_covariances(z: Tensor, centroids: Tensor, tiles: Tiles, count: Tensor, room: int) -> Tensor:
    """Second moments around the centroids.

    Args:
        z: ``(n, q)``.
        centroids: ``(K, q)``.
        tiles: of components.
        count: ``(K,)``.
        room: tiles at a time.

    Returns:
        ``(K, q, q)``.
    """
    q = z.shape[1]
    total = z.new_zeros(len(centroids), q, q)
    for part in tiles.chunks(max(1, room * tiles.rows.shape[1] // q)):
        away = part.gather(z, centroids)
        part.add(total, torch.bmm(away.transpose(1, 2), away))
    return total / count.clamp(min=1).view(-1, 1, 1)


def low_rank_factors(z: Tensor, centroids: Tensor, tiles: Tiles, count: Tensor, room: int, start: Tensor) -> Tensor:
    """U with ``U U^T`` near the r leading principal parts of each covariance, by subspace iteration.

    Args:
        z: ``(n, q)``.
        centroids: ``(K, q)``.
        tiles: of components.
        count: ``(K,)``.
        room: tiles at a time.
        start: ``(K, q, r)``, the factors of the last fit or random directions.

    Returns:
        ``(K, q, r)``; columns beyond the rank of a covariance are zero.
    """
    size, rank = tiles.rows.shape[1], start.shape[2]
    share = max(1, room * size // (size + 2 * rank))
    basis, image = start, start
    for _ in range(_POWER_STEPS):
        basis = _times_inverse_root(image, torch.bmm(image.transpose(1, 2), image))
        image = torch.zeros_like(basis)
        for part in tiles.chunks(share):
            away = part.gather(z, centroids)
            part.add(image, torch.bmm(away.transpose(1, 2), torch.bmm(away, basis[part.segment])))
        image /= count.clamp(min=1).view(-1, 1, 1)
    # Nystroem: U = S Q (Q^T S Q)^(-1/2), so U U^T is at most S and what is left on its diagonal is not negative
    return _times_inverse_root(image, torch.bmm(basis.transpose(1, 2), image))


def revived(factors: Tensor, fresh: Tensor) -> Tensor:
    """Factors to begin with, of which those that are zero point anywhere: iteration never turns zero into a direction.

    Args:
        factors: ``(K, q, r)`` of the last fit; zero before the first, and where a component had too few samples.
        fresh: ``(K, q, r)``, random.
    """
    sizes = factors.norm(dim=1, keepdim=True)
    size = sizes.amax(2, keepdim=True)  # of like size, so that none counts as rounding beside another
    size = torch.where(size > 0, size / fresh.norm(dim=1, keepdim=True), torch.ones_like(size))
    return torch.where(sizes > 0, factors, fresh * size)


def _times_inverse_root(columns: Tensor, gram: Tensor) -> Tensor:
    """``columns gram^(-1/2)`` for ``(K, q, r)`` and ``(K, r, r)``; directions without weight become zero."""
    values, vectors = torch.linalg.eigh(0.5 * (gram + gram.transpose(1, 2)))
    least = values.amax(1, keepdim=True).clamp(min=0) * torch.finfo(columns.dtype).eps * columns.shape[1]
    scale = torch.where(values > least, values.clamp(min=1e-38).rsqrt(), torch.zeros_like(values))
    return torch.bmm(columns, vectors * scale.unsqueeze(1))


def _cholesky(total: Tensor) -> Tensor:
    """Of symmetric matrices ``(K, q, q)``; of V + j I, j the least that rounding asks for, where they are not positive.

    A Gaussian that is a little wider than the fitted one gives a bound too.
    """
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(total)
    if not bool(failed.any()):
        return lower
    wide = total.double()
    eye = torch.eye(total.shape[1], dtype=wide.dtype, device=wide.device)
    more = torch.finfo(total.dtype).eps * wide.diagonal(dim1=1, dim2=2).amax(1).clamp(min=torch.finfo(total.dtype).tiny)
    while bool(failed.any()):
        lower, failed = torch.linalg.cholesky_ex(wide + more.view(-1, 1, 1) * eye)
        more = 4 * more
    return lower.to(total.dtype)


def low_rank_root(diagonal: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Woodbury: W and ``ln det V`` of ``V = D + U U^T``, with ``V^-1 = D^-1 - W W^T``.

    Args:
        diagonal: D, ``(K, q)``, positive.
        factors: U, ``(K, q, r)``.

    Returns:
        W ``(K, q, r)`` and ``(K,)``.
    """
    scaled = factors / diagonal.unsqueeze(2)
    inner = torch.bmm(factors.transpose(1, 2), scaled)
    inner = inner + torch.eye(factors.shape[2], dtype=inner.dtype, device=inner.device)
    lower = _cholesky(inner)
    root = torch.linalg.solve_triangular(lower, scaled.transpose(1, 2), upper=False).transpose(1, 2)
    log_det = diagonal.log().sum(1) + 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
    return root.contiguous(), log_det


def full_root(total: Tensor) -> tuple[Tensor, Tensor]:
    """P and ``ln det V`` of V ``(K, q, q)``, positive definite, with ``V^-1 = P^T P``."""
    lower = _cholesky(total)
    eye = torch.eye(total.shape[1], dtype=total.dtype, device=total.device).expand_as(total)
    root = torch.linalg.solve_triangular(lower, eye, upper=False)
    return root, 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
