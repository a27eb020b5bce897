"""Distance correlation of pictures and features (NoPeek)."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.contracts import Penalty, PenaltyContext, Terms, Trace
from splitveil.defenses.penalties.pairs import FEWEST, check_samples, doubly_centred, squared_distances

__all__ = ["DistanceCorrelation", "distance_correlation"]


class DistanceCorrelation(Penalty):
    """``dCor(x, z)`` of the batch: 0 where pictures and features are independent, 1 where distances agree.

    It is a statistic of pairs, not a mean over samples: its value depends on the batch size, and a batch of one has
    none.

    Reference:
        Vepakomma et al.: NoPeek, arXiv 2008.09161; Szekely, Rizzo, Bakirov, Annals of Statistics 2007, eq. 2.9.
    """

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, in [0, 1]."""
        x, z = context.comm.gather(trace.x.flatten(1)), context.comm.gather(trace.z.flatten(1))
        if len(x) < FEWEST:
            return {"distance_correlation": z.sum() * 0.0}
        return {"distance_correlation": distance_correlation(x, z)}


def distance_correlation(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(mean(A B) / sqrt(mean(A A) mean(B B)))``, A and B the doubly centred matrices of Euclidean distances.

    Args:
        a: ``(n, p)``, n >= 2.
        b: ``(n, q)``.

    Returns:
        Scalar in [0, 1], with gradient; 0 where one side does not vary.

    Raises:
        InputError: fewer than two rows, or not as many in both.

    Example:
        >>> rows = torch.arange(6.0).reshape(3, 2)
        >>> round(float(distance_correlation(rows, 2 * rows)), 4)
        1.0
    """
    check_samples(a, b)
    first, second = _centred(a), _centred(b)
    covariance = (first * second).mean().clamp_min(0.0)
    variances = first.square().mean() * second.square().mean()
    smallest = torch.finfo(variances.dtype).tiny
    ratio = covariance / (variances + smallest).sqrt()
    return (ratio + smallest).sqrt()


def _centred(rows: Tensor) -> Tensor:
    """Distances, with rows, columns and all of mean zero; the diagonal is no distance and has no gradient."""
    squares = squared_distances(rows)
    largest = rows.square().sum(1).max().clamp_min(1e-30)
    off = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    apart = off & (squares > 1e-12 * largest)
    distances = torch.where(apart, squares.where(apart, torch.ones_like(squares)).sqrt(), torch.zeros_like(squares))
    return doubly_centred(distances)
