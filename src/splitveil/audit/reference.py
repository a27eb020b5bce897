"""A plain encoder of the same payload: what stands in for an undefended twin where there is none."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import FeatureSpec
from splitveil.data.loader import Pictures, steps
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.nets.parts import SplitParts
from splitveil.nets.plain import PlainEncoder
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

__all__ = ["reference_subject"]

_EPOCHS, _BATCH, _RATE = 20, 64, 2e-3


def reference_subject(
    picture: tuple[int, ...], release: FeatureSpec, pictures: Pictures, labels: Tensor | None, rng: Rng
) -> ModelSubject:
    """Train a plain encoder on the attacker's pictures: to classify where labels are granted, else to reconstruct.

    Args:
        picture: ``(c, h, w)``.
        release: spec of the subject's releases.
        pictures: to train on.
        labels: ``(n,)`` int64, or None.
        rng: of weights and order.

    Returns:
        The encoder, without noise. Without labels it does not offer its tail, which rebuilds pictures.
    """
    with rng.child("weights").scoped():
        encoder = PlainEncoder(picture, release)
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
    parts = SplitParts(encoder, reader, tuple(picture), feature=release)
    subject = ModelSubject(SplitModel(parts, Identity()).eval())
    if labels is None:
        subject.offers = subject.offers - {"tail", "labels"}
    return subject
