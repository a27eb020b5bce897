"""The decoder attack: an inverse network trained on auxiliary pictures and their releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from splitveil.attacks.fitting import DecoderAttack
from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.view import attacker_view
from splitveil.contracts import View
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Decoder"]


@dataclass(frozen=True)
class Decoder(DecoderAttack):
    """Train ``g`` to minimise ``E ||g(r) - x||^2`` over auxiliary pictures, with fresh noise at every step.

    ```
    x (auxiliary) --[ view ]-- r --[ standardise ]--[ inverse network ]-- picture        Adam, cosine to 1e-5
    ```

    The epoch with the least error on held-out auxiliary pictures is kept. Where only pairs are granted, or the query
    budget is too small for fresh releases in every epoch, each picture's one release is learned from again.

    Args:
        channels: of the network; the width of a token for ``tokens``.
        blocks: of the network: on the grid of the release, for ``unet`` at the coarsest scale.
        epochs: passes over the auxiliary pictures, at most.
        batch_size: at least 4.
        lr: first learning rate.
        weight_decay: of Adam.
        patience: epochs without an improvement of 0.1 % before it stops; None: never.
        val_share: share of the auxiliary pictures held out.
        architecture: ``residual``, ``subpixel``, ``unet`` or ``tokens``.
        standardise: ``affine`` per channel, or ``whiten`` the channels' correlations too.
        crop: shift pictures by up to so many pixels, anew in every epoch; black comes in at the edges.
        flip: mirror half of the pictures, anew in every epoch.

    Raises:
        SpecError: a value out of range.

    Example:
        >>> Decoder(architecture="unet", standardise="whiten").channels
        64

    Reference:
        Mahendran and Vedaldi 2015; architecture and schedule of the CEM paper's code.
    """

    name: ClassVar[str] = "decoder"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})

    def _fit(self, view: View, rng: Rng) -> DecoderInverter:
        held = attacker_view(view)
        return self._train(held, self._plan(held, rng), rng)
