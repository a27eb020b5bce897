"""A random projection for features that are too wide for a mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["Projection"]


class Projection(nn.Module):
    """``P z``: each of p outputs is the signed sum of its own share of the inputs, over the root of their number.

    The rows of P are orthonormal, so Gaussian noise that is independent per input stays so per output, with the mean
    variance of its share. The information that is left, ``I(x; P r) <= I(x; r)``, is a part of the whole: what is
    computed behind a projection is an estimate, not a bound on the release. The cost is one pass over z.

    Args:
        q: inputs.
        outputs: p, at most q.
        rng: key of signs and shares.

    Raises:
        SpecError: p out of range.

    Example:
        >>> Projection(1000, 64, Rng(0))(torch.randn(3, 1000)).shape
        torch.Size([3, 64])
    """

    signs: Tensor
    owner: Tensor
    scale: Tensor

    def __init__(self, q: int, outputs: int, rng: Rng) -> None:
        super().__init__()
        if not 1 <= outputs <= q:
            raise SpecError(f"expected a projection to 1 to {q} dimensions, got {outputs}")
        generator = rng.child("projection").generator()
        owner = torch.arange(q).remainder(outputs)[torch.randperm(q, generator=generator)]
        signs = torch.randint(0, 2, (q,), generator=generator).float() * 2 - 1
        count = torch.bincount(owner, minlength=outputs).float()
        self.outputs = outputs
        self.register_buffer("owner", owner)
        self.register_buffer("signs", signs / count[owner].sqrt())
        self.register_buffer("scale", count.reciprocal())

    def forward(self, z: Tensor) -> Tensor:
        """``(n, q)`` to ``(n, p)``."""
        return z.new_zeros(len(z), self.outputs).index_add(1, self.owner, z * self.signs)

    def variance(self, variance: Tensor) -> Tensor:
        """The variance of projected noise, from that of independent noise: ``(n, q)`` to ``(n, p)``."""
        total = variance.new_zeros(len(variance), self.outputs).index_add(1, self.owner, variance)
        return total * self.scale
