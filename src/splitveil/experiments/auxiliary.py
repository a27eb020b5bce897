"""The attacker's own pictures, as a threat model says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.data.shift import corrupt, hold_out_classes, resize_like
from splitveil.data.sources import guess_source, load_source
from splitveil.data.splits import Splits, picture_digests
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError
from splitveil.rng import Rng
from splitveil.threats import SHIFTS, ThreatModel

__all__ = ["auxiliary_pictures"]


def auxiliary_pictures(
    splits: Splits, device: torch.device | str, rng: Rng
) -> Callable[[ThreatModel], Pictures | None]:
    """From a threat model to the pictures that its attacker holds.

    ```
    none ─► nothing      same ─► aux      train ─► train      shifted ─► aux, changed, or another data set
    ```

    Pictures of another data set that are test pictures too are left out.

    Args:
        splits: of the data that is attacked.
        device: where the pictures are kept.
        rng: of the changes.
    """

    def choose(threat: ThreatModel) -> Pictures | None:
        if threat.auxiliary == "none":
            return None
        if threat.auxiliary == "train":
            return hold(splits.train, device)
        table = splits.aux if threat.auxiliary == "same" else _shifted(splits, threat.shift or SHIFTS[0], rng)
        return hold(table, device)

    return choose


def _shifted(splits: Splits, shift: str, rng: Rng) -> ImageTable:
    table = splits.aux
    if shift == "corruptions":
        return corrupt(table, rng.child("corruptions"))
    if shift == "held_out_classes":
        return hold_out_classes(table, rng.child("held out"))
    name, path = guess_source(shift)
    other = resize_like(load_source(name, Path(path) if path else None).train, tuple(table.images.shape[1:]))
    unseen = np.flatnonzero(~np.isin(picture_digests(other), picture_digests(splits.test)))
    if not len(unseen):
        raise InputError(
            f"expected pictures in '{shift}' beside those that attacks are scored on, got none: choose another --shift"
        )
    return other if len(unseen) == len(other) else other.take(torch.from_numpy(unseen))
