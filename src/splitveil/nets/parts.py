"""The parts of a network that is cut in two (or three): what a model factory returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from splitveil.contracts import FeatureSpec

__all__ = ["SplitParts"]


@dataclass(frozen=True, slots=True)
class SplitParts:
    """Head and tail of a network, and the edge's last step where there is one.

    Args:
        head: pictures ``(n, c, h, w)`` in [0, 1] to features z; normalisation is inside.
        tail: release r to reply; what the cloud holds.
        input_shape: ``(c, h, w)``.
        finish: reply to output, on the edge; the identity by default.
        feature: the spec of z; None to find it by a forward pass.
    """

    head: nn.Module
    tail: nn.Module
    input_shape: tuple[int, ...]
    finish: nn.Module = field(default_factory=nn.Identity)
    feature: FeatureSpec | None = None
