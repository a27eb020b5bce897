"""From slopes to error: the Fisher information of a release about its picture, and what follows for every attacker.

The release is Gaussian given the picture, ``r ~ N(m(x), diag v(x))``; n fresh releases have n times its information.
The bounds need a mean and a variance without jumps (kinks, as of ReLU and max pooling, do no harm), and the score
``grad ln p(x)`` of a density of pictures that is smooth and vanishes at infinity: pictures with noise added.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from splitveil.errors import InputError, SpecError

__all__ = ["SpectrumBound", "continuity", "fisher_rows", "spectrum", "unbiased", "van_trees"]

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pictures ``(n, c, h, w)`` to mean and standard deviation of their releases, each ``(n, q)``, differentiable."""


def fisher_rows(moments: Moments, x: Tensor, directions: Tensor) -> Tensor:
    """What moves along directions of the picture, in standard deviations of the noise: ``F = E[rows' rows]``.

    ```
    rows = ( J_m u / s ,  sqrt(2) J_s u / s ),       F = J_m' V^-1 J_m + 1/2 J_lnv' J_lnv
    ```

    Args:
        moments: of the release.
        x: ``(n, c, h, w)``.
        directions: ``(k, c, h, w)``, or ``(n, k, c, h, w)`` for directions of each picture's own.

    Returns:
        ``(n, k, 2 q)``; ``|rows[i, a]|^2`` is ``u_a' F(x_i) u_a``.

    Reference:
        Kay: Fundamentals of Statistical Signal Processing, (3.31).

    Example:
        >>> moments = lambda x: (3 * x.flatten(1), torch.full_like(x.flatten(1), 0.5))
        >>> rows = fisher_rows(moments, torch.zeros(1, 1, 1, 2), torch.eye(2).reshape(2, 1, 1, 2))
        >>> rows.square().sum(2)  # (3 / 0.5)^2
        tensor([[36., 36.]])
    """
    own = directions.ndim == x.ndim + 1
    rows: list[Tensor] = []
    for number in range(directions.shape[1] if own else len(directions)):
        u = directions[:, number] if own else directions[number].expand_as(x)
        (_, std), (mean_moves, std_moves) = _along(moments, x, u)
        rows.append(torch.cat([mean_moves / std, math.sqrt(2) * std_moves / std], dim=1).detach())
    return torch.stack(rows, dim=1)


def van_trees(fisher_traces: Tensor, score_norms: Tensor, dimensions: int, observations: int = 1) -> float:
    """``xi >= d / (n E Tr F + Tr S)``, S the covariance of the score: for every attacker, biased or not.

    Args:
        fisher_traces: ``(k,)``, Tr F of pictures, or unbiased estimates.
        score_norms: ``(m,)``, ``|grad ln p|^2`` of pictures.
        dimensions: d.
        observations: n.

    Reference:
        van Trees 1968; Gill and Levit 1995, (11).

    Example:
        >>> van_trees(torch.tensor([6.0]), torch.tensor([2.0]), 2)
        0.25
    """
    return dimensions / float(observations * fisher_traces.double().mean() + score_norms.double().mean())


def unbiased(fisher_traces: Tensor, dimensions: int, observations: int = 1) -> float:
    """``d / (n E Tr F)``: for attackers whose error does not depend on the picture only (the diagonal of dFIL).

    It lies above what biased attackers, that is all that know what pictures are like, reach. Not a bound on them.
    Infinite where the release does not change with the picture.

    Example:
        >>> unbiased(torch.tensor([4.0]), 2)
        0.5
    """
    told = float(observations * fisher_traces.double().mean())
    return dimensions / told if told > 0 else math.inf


@dataclass(frozen=True, slots=True)
class SpectrumBound:
    """A bound on the error per dimension, and the terms that it is a mean of.

    Args:
        value: of the bound.
        terms: ``(m,)``, one per picture of the second fold; their mean is the value.
    """

    value: float
    terms: Tensor


def spectrum(
    rows: Tensor, scores: Tensor, dimensions: int, observations: int = 1, *, ridge: float = 1e-3
) -> SpectrumBound:
    """``xi >= 1/d Tr (n E F + S)^-1``, without the optimism of the inverse of a sampled matrix.

    ```
    Tr A^-1 >= 2 Tr M - Tr(M A M)    for every symmetric M,      A = n E F + S
    ```
    M is the (shrunk) inverse of A on the first half of the pictures, and the right-hand side is averaged over the
    second: whatever M is, its expectation lies below the left-hand side. Directions outside of the span that is given
    count nothing.

    Args:
        rows: ``(m, k, p)`` of `fisher_rows`, along orthonormal directions.
        scores: ``(m, k)``, the score of each picture along them.
        dimensions: d >= k.
        observations: n.
        ridge: shrinkage of A towards its mean diagonal, on the first half.

    Raises:
        InputError: shapes that do not match, or fewer than two pictures.

    Reference:
        Bayesian Cramér-Rao in matrix form (van Trees 1968), with the two-fold variational form.

    Example:
        >>> rows, scores = torch.ones(2, 1, 1), torch.ones(2, 1)  # A = 2
        >>> round(spectrum(rows, scores, 1, ridge=0.0).value, 6)
        0.5
    """
    if rows.ndim != 3 or len(rows) < 2 or scores.shape != rows.shape[:2]:
        raise InputError(
            f"expected rows (m, k, p) and scores (m, k), m >= 2, got {tuple(rows.shape)} and {tuple(scores.shape)}"
        )
    if dimensions < rows.shape[1] or observations < 1:
        raise SpecError(f"expected d >= k and n >= 1, got {dimensions} < {rows.shape[1]} or {observations}")
    half = len(rows) // 2
    matrix = _information(rows[:half], scores[:half], observations)
    matrix = (1 - ridge) * matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
    inverse = torch.linalg.pinv(matrix, hermitian=True)
    inverse = (inverse + inverse.T) / 2
    later, slopes = rows[half:].double(), scores[half:].double()
    spent = observations * torch.einsum("mkp,kl->mlp", later, inverse).square().sum((1, 2))
    terms = (2 * inverse.trace() - spent - (slopes @ inverse).square().sum(1)) / dimensions
    return SpectrumBound(float(terms.mean()), terms)


def _information(rows: Tensor, scores: Tensor, observations: int) -> Tensor:
    flat = rows.double().transpose(1, 2).reshape(-1, rows.shape[1])
    slopes = scores.double()
    return (observations * flat.T @ flat + slopes.T @ slopes) / len(rows)


def continuity(moments: Moments, x: Tensor, directions: Tensor, step: float = 1e-4) -> Tensor:
    """How far the mean moves from where its slope says, along each direction; near 0 unless it jumps.

    ```
    | m(x + t u) - m(x) - t J u | / ( | m(x + t u) - m(x) | + t s )
    ```
    A kink inside the step gives less than 1, a jump about 1 (its slope is 0, its step is not).

    Args:
        moments: of the release.
        x: ``(n, c, h, w)``.
        directions: ``(k, c, h, w)``.
        step: t.

    Returns:
        ``(n, k)``.

    Example:
        >>> steps = lambda x: (x.flatten(1).mul(1e5).round(), torch.ones_like(x.flatten(1)))
        >>> u = torch.ones(1, 1, 1, 1)
        >>> bool(continuity(steps, torch.tensor([[[[0.30001]]]]), u).item() > 0.9)
        True
    """
    found: list[Tensor] = []
    for u in directions:
        (mean, std), (moves, _) = _along(moments, x, u.expand_as(x))
        with torch.no_grad():
            moved = moments(x + step * u.to(x))[0] - mean
            scale = moved.norm(dim=1) + step * std.norm(dim=1) * 1e-3
            found.append((moved - step * moves).norm(dim=1) / scale)
    return torch.stack(found, dim=1)


def _along(moments: Moments, x: Tensor, u: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Mean and deviation, and how they move."""
    with warnings.catch_warnings():  # torch warns of its own use of torch.jit.script when forward mode is first used
        warnings.filterwarnings("ignore", category=FutureWarning, message=r".*torch\.jit\.script")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=r".*torch\.jit\.script")
        found: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] = jvp(moments, (x,), (u.to(x),))  # type: ignore[assignment]
    return found
