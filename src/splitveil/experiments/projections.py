"""Features and releases of some test pictures on two principal axes: what the mechanism does to them, to look at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.data.loader import Pictures
from splitveil.modes import evaluating
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

__all__ = ["PrincipalPlane", "project_features"]

_PICTURES = 240
_AXES = 2


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalPlane:
    """The plane in which some points spread the most.

    Args:
        mean: ``(q,)`` float64.
        axes: ``(q, 2)``, orthonormal, the wider one first; zero where the points have no second direction.
        shares: ``(2,)``, of the variance.
    """

    mean: Tensor
    axes: Tensor
    shares: Tensor

    @classmethod
    def fit(cls, points: Tensor) -> PrincipalPlane:
        """Of ``(n, q)`` points; exact, by the n x n matrix of their products, and so cheap for any q.

        Example:
            >>> plane = PrincipalPlane.fit(torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [4.0, 0.0, 1.0]]))
            >>> plane.shares.tolist()
            [1.0, 0.0]
        """
        points = points.double()
        mean = points.mean(0)
        centred = points - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        values, vectors = values.flip(0)[:_AXES].clamp(min=0.0), vectors.flip(1)[:, :_AXES]
        total = centred.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        length = values.sqrt()
        real = length > 1e-7 * total.sqrt()
        axes = torch.where(real, centred.T @ vectors / length.clamp(min=1e-300), 0.0)
        lead = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # an eigenvector has no sign of its own
        return cls(mean, axes * torch.where(lead == 0, 1.0, lead), torch.where(real, values / total, 0.0))

    def place(self, points: Tensor) -> Tensor:
        """Coordinates ``(n, 2)`` of ``(n, q)`` points."""
        return (points.double() - self.mean) @ self.axes


def project_features(model: SplitModel, pictures: Pictures, rng: Rng) -> dict[str, Tensor]:
    """The first pictures' features before the mechanism, and one release of each, as points of a plane.

    Releases of the same size as features lie on the features' axes, others on their own.

    Args:
        model: trained.
        pictures: of the test split.
        rng: key of the releases.

    Returns:
        ``labels (n,)``, ``before (n, 2)``, ``after (n, 2)``, ``before_shares (2,)`` and ``after_shares (2,)`` of the
        variance, ``same_axes (1,)``.
    """
    x, _ = pictures.get(torch.arange(min(_PICTURES, len(pictures))))
    labels = pictures.labels[: len(x)]
    with evaluating(model), torch.no_grad():
        z = model.features(x)[0].flatten(1).cpu()
    r = model.release(x, noise=SeededNoise(rng)).flatten(1).cpu()
    plane = PrincipalPlane.fit(z)
    same = z.shape == r.shape
    seen = plane if same else PrincipalPlane.fit(r)
    after, spread = seen.place(r), (r.double() - r.double().mean(0)).square().sum()
    tiny = torch.finfo(torch.float64).tiny
    return {
        "labels": labels.cpu().contiguous(),
        "before": plane.place(z).float().contiguous(),
        "after": after.float().contiguous(),
        "before_shares": plane.shares.float().contiguous(),
        "after_shares": ((after - after.mean(0)).square().sum(0) / spread.clamp(min=tiny)).float().contiguous(),
        "same_axes": torch.tensor([int(same)]),
    }
