"""Keep the largest values of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.combining import kept_mean
from splitveil.contracts import FeatureSpec, Mechanism
from splitveil.defenses.mechanisms.dropout import with_zero
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import SpecError

__all__ = ["TopK"]


class TopK(Mechanism):
    """Keep the k values of largest magnitude of each sample, the first ones in row-major order where they tie.

    Each sample is sorted by itself: what is kept of a picture does not depend on the pictures beside it.

    Args:
        ratio: share of the values of a sample that is kept, 0 < ratio <= 1; ``k = max(1, round(ratio q))``.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        if not (isinstance(ratio, (int, float)) and 0 < ratio <= 1):
            raise SpecError(f"expected 0 < ratio <= 1 for the share that is kept, got {ratio!r}")
        self.ratio = float(ratio)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z, its range widened to 0."""
        return with_zero(z)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with zeros for all but the largest."""
        flat = z.flatten(1)
        k = max(1, round(self.ratio * flat.shape[1]))
        size = flat.abs()
        # torch.topk leaves open which of equal values it returns, so only its threshold is used
        threshold = size.topk(k, dim=1).values[:, -1:]
        above, tied = size > threshold, size == threshold
        room = k - above.sum(dim=1, keepdim=True)
        keep = above | (tied & (tied.long().cumsum(dim=1) <= room))
        return (flat * keep.to(z.dtype)).reshape(z.shape)

    def unmasked(self) -> Mechanism:
        """All of z."""
        return Identity()

    def hidden_within(self, r: Tensor) -> Tensor:
        """The least magnitude that was kept."""
        size = r.abs().flatten(1)
        least = size.masked_fill(size == 0, torch.inf).amin(1)
        return least.reshape(-1, *[1] * (r.ndim - 1))

    def combine(self, r: Tensor) -> Tensor:
        """The mean of what was kept, position by position."""
        return kept_mean(r)
