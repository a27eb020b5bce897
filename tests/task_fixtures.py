"""Pictures that come with a label, a value, a mask or nothing, and small networks for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from splitveil.nets.parts import SplitParts

FAST = {"epochs": 2, "batch_size": 32, "augment": {"crop": 1}}

Bytes = NDArray[np.uint8]


def squares(n: int, seed: int = 0) -> tuple[Bytes, NDArray[np.int64], NDArray[np.float32], Bytes]:
    """A bright square of one of two sizes on noise: pictures ``(n, 12, 12)``, sizes, places across, masks."""
    draw = np.random.default_rng(seed)
    pictures, masks = draw.integers(0, 60, (n, 12, 12)).astype(np.uint8), np.zeros((n, 12, 12), dtype=np.uint8)
    labels, places = np.arange(n) % 2, draw.integers(0, 8, n)
    for index in range(n):
        side, left = 3 + int(labels[index]), int(places[index])
        pictures[index, 4 : 4 + side, left : left + side] += 150
        masks[index, 4 : 4 + side, left : left + side] = 1
    masks[:, 0] = 255  # nobody knows the first row
    return pictures, labels.astype(np.int64), (places / 8).astype(np.float32), masks


def save_squares(file: Path, kind: str, n: int = 240) -> Path:
    """``labels``, ``targets``, ``masks`` or ``nothing`` beside pictures in an .npz file."""
    pictures, labels, places, masks = squares(n)
    beside = {"labels": {"labels": labels}, "targets": {"targets": places}, "masks": {"masks": masks}, "nothing": {}}
    np.savez(file, images=pictures, **beside[kind])
    return file


def dense(*, classes: int, input_shape: Sequence[int] = (1, 12, 12)) -> SplitParts:
    """A network that answers for every pixel."""
    channels, height, width = input_shape
    head = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Sigmoid())
    tail = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))
    return SplitParts(head, tail, (channels, height, width))
