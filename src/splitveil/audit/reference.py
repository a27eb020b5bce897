"""A plain encoder of the same payload: what stands in for an undefended twin where there is none."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.subjects import CallableSubject
from splitveil.contracts import FeatureSpec
from splitveil.data.loader import Pictures, steps
from splitveil.rng import Rng

__all__ = ["ReferenceEncoder", "reference_subject"]

_EPOCHS, _BATCH, _RATE = 20, 64, 2e-3


class ReferenceEncoder(nn.Module):
    """Two convolutions, a pooling to the release's grid, a bottleneck and a sigmoid; nothing that hides.

    Args:
        picture: ``(c, h, w)``.
        release: the spec to fill; vectors and tokens get a linear layer at the end.
        width: channels.
    """

    def __init__(self, picture: tuple[int, ...], release: FeatureSpec, width: int = 32) -> None:
        super().__init__()
        self.release = release
        grid = _grid(release)
        self.features = nn.Sequential(
            nn.Conv2d(picture[0], width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(grid or (4, 4)),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.end: nn.Module
        if grid is None:
            self.end = nn.Sequential(nn.Flatten(), nn.Linear(16 * width, release.numel))
        else:
            self.end = nn.Conv2d(width, release.numel // math.prod(grid), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, *r)`` in (0, 1)."""
        z: Tensor = self.end(self.features(x)).sigmoid()
        if _grid(self.release) is None:
            return z.reshape(-1, *self.release.shape)
        return z.movedim(1, self.release.channel_axis + 1)


def _grid(release: FeatureSpec) -> tuple[int, int] | None:
    """Height and width of a map; None for anything else."""
    if release.kind != "map":
        return None
    height, width = (size for axis, size in enumerate(release.shape) if axis != release.channel_axis)
    return height, width


def reference_subject(
    picture: tuple[int, ...], release: FeatureSpec, pictures: Pictures, labels: Tensor | None, rng: Rng
) -> CallableSubject:
    """Train a plain encoder on the attacker's pictures: to classify where labels are granted, else to reconstruct.

    Args:
        picture: ``(c, h, w)``.
        release: spec of the subject's releases.
        pictures: to train on.
        labels: ``(n,)`` int64, or None.
        rng: of weights and order.

    Returns:
        The encoder as a black box, without noise.
    """
    with rng.child("weights").scoped():
        encoder = ReferenceEncoder(picture, release)
        outputs = math.prod(picture) if labels is None else int(labels.max()) + 1
        reader = nn.Sequential(nn.Flatten(), nn.Linear(release.numel, outputs))
    encoder.to(pictures.device), reader.to(pictures.device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *reader.parameters()], lr=_RATE)
    batch = min(_BATCH, len(pictures))
    for epoch in range(_EPOCHS):
        order = pictures.order(rng.child("order", epoch))
        for step in range(steps(len(pictures), batch)):
            indices = order[step * batch : (step + 1) * batch]
            x = pictures.get(indices)[0]
            read = reader(encoder(x))
            loss = (
                functional.mse_loss(read, x.flatten(1))
                if labels is None
                else functional.cross_entropy(read, labels[indices.to(labels.device)])
            )
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
    encoder.eval()
    return CallableSubject(encoder, picture, release)
