"""Let a part of the channels pass, chosen for each picture by a learned filter (DISCO)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from splitveil.combining import kept_mean
from splitveil.contracts import FeatureSpec, Mechanism
from splitveil.defenses.mechanisms.dropout import with_zero
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["ChannelMask"]

_HIDDEN = 4  # times the channels


class ChannelMask(Mechanism):
    """``r_c = z_c * 1[score_c(z) is among the k largest]``, scores from the means of the channels.

    ```
    z (c, h, w) --[ mean over positions ]-- c --[ two layers ]-- scores --[ k largest ]-- mask
    ```

    The mask is hard when it serves and when it trains; its gradient is that of the sigmoid of the scores
    (straight-through), so the filter learns from whatever reads the release: task, adversary, or both.

    Args:
        spec: of z, at least 2 channels.
        ratio: share of the channels that is removed, 0 < ratio < 1; at least one passes and one is removed.

    Reference:
        Singh et al.: DISCO: Dynamic and Invariant Sensitive Channel Obfuscation, CVPR 2021.
    """

    def __init__(self, spec: FeatureSpec, ratio: float = 0.5) -> None:
        super().__init__()
        channels = spec.shape[spec.channel_axis]
        if not (isinstance(ratio, (int, float)) and 0 < ratio < 1):
            raise SpecError(f"expected 0 < ratio < 1 for the share of channels that is removed, got {ratio!r}")
        if channels < 2:
            raise SpecError(f"expected features of at least 2 channels to choose from, got {channels}")
        self.kept = min(max(1, round((1 - ratio) * channels)), channels - 1)
        self._axis = spec.channel_axis + 1
        self._others = tuple(axis + 1 for axis in range(len(spec.shape)) if axis != spec.channel_axis)
        self.filter = nn.Sequential(
            nn.Linear(channels, _HIDDEN * channels), nn.ReLU(), nn.Linear(_HIDDEN * channels, channels)
        )

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> ChannelMask:
        """For features of this spec."""
        with rng.scoped():
            return cls(spec, **params)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z, its range widened to 0."""
        return with_zero(z)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` with whole channels at zero."""
        mask = self.mask(z)
        for _ in self._others:
            mask = mask.unsqueeze(-1)
        return (z.movedim(self._axis, 1) * mask).movedim(1, self._axis)

    def mask(self, z: Tensor) -> Tensor:
        """``(n, c)`` of ones and zeros, with the gradient of the scores' sigmoid."""
        scores: Tensor = self.filter(z.mean(self._others) if self._others else z)
        threshold = scores.topk(self.kept, dim=1).values[:, -1:]
        hard = (scores >= threshold).to(z.dtype)
        soft = torch.sigmoid(scores)
        return hard + soft - soft.detach()

    def combine(self, r: Tensor) -> Tensor:
        """The mean of what passed."""
        return kept_mean(r)
