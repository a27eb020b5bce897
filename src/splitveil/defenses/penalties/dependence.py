"""Dependence on pictures and on labels, by the Hilbert-Schmidt independence criterion (BiDO)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from splitveil.contracts import FeatureSpec, Penalty, PenaltyContext, Terms, Trace
from splitveil.defenses.penalties.pairs import FEWEST, check_samples, doubly_centred, squared_distances
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["Dependence", "hilbert_schmidt"]

_SIGMA = 5.0


class Dependence(Penalty):
    """``a HSIC(x, z) - b HSIC(z, y)``: forget the pictures, keep the labels.

    Kernels are Gaussian, ``exp(-|u - v|^2 / (2 * 5^2 * dim))``; the criterion is normalised to [0, 1] by those of each
    side with itself, so that a and b do not depend on sizes. It is a statistic of pairs of the batch.

    Args:
        classes: k.
        pictures: a >= 0.
        labels: b >= 0, not both 0.

    Reference:
        Peng et al.: Bilateral Dependency Optimization, KDD 2022, eq. 4; Gretton et al., ALT 2005; normalised as in
        Cortes, Mohri, Rostamizadeh, JMLR 2012, eq. 4.
    """

    def __init__(self, classes: int, *, pictures: float = 1.0, labels: float = 1.0) -> None:
        super().__init__()
        if not (0 <= pictures < math.inf and 0 <= labels < math.inf) or pictures == labels == 0:
            raise SpecError(
                f"expected finite pictures, labels >= 0 and not both 0, got {pictures} and {labels}: pass 0.5 and 0.5"
            )
        self.classes, self.pictures, self.labels = classes, float(pictures), float(labels)

    @classmethod
    def from_spec(
        cls, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...], **params: Any
    ) -> Dependence:
        """For labels of so many classes."""
        return cls(classes, **params)

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """Two terms, weighted by a and -b."""
        gather = context.comm.gather
        z = gather(trace.z.flatten(1))
        if len(z) < FEWEST:
            return {"dependence_pictures": z.sum() * 0.0, "dependence_labels": z.sum() * 0.0}
        y = (gather(context.y)[:, None] == torch.arange(self.classes, device=z.device)).to(z)
        return {
            "dependence_pictures": self.pictures * hilbert_schmidt(gather(trace.x.flatten(1)), z),
            "dependence_labels": -self.labels * hilbert_schmidt(z, y),
        }


def hilbert_schmidt(a: Tensor, b: Tensor) -> Tensor:
    """``tr(K H L H) / sqrt(tr(K H K H) tr(L H L H))`` of two samples, H the centring matrix.

    Args:
        a: ``(n, p)``, n >= 2.
        b: ``(n, q)``.

    Returns:
        Scalar in [0, 1], with gradient; 0 where one side does not vary.

    Example:
        >>> rows = torch.arange(6.0).reshape(3, 2)
        >>> round(float(hilbert_schmidt(rows, rows)), 4)
        1.0
    """
    check_samples(a, b)
    first, second = _centred_kernel(a), _centred_kernel(b)
    size = (first.square().sum() * second.square().sum()).clamp_min(torch.finfo(first.dtype).tiny).sqrt()
    return (first * second).sum() / size


def _centred_kernel(rows: Tensor) -> Tensor:
    """Of the kernel less 1, which centring takes out and without which features that vary little keep their digits."""
    return doubly_centred((-squared_distances(rows) / (2 * _SIGMA**2 * rows.shape[1])).expm1())
