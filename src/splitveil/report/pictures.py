"""Stored pictures of a run, and how they enter the page: small PNG files inside the text."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from splitveil.errors import InputError
from splitveil.report.runs import Run

__all__ = ["PSNR_CAP_DB", "Encoder", "Samples", "load_samples", "psnr_db"]

PSNR_CAP_DB = 100.0
"""PSNR of a perfect copy, as in `splitveil.metrics.functional`, which needs torch and is not imported here."""

_SIDES = (128, 96, 64, 48, 32)
_BUDGET_BYTES = 1_800_000
_NEEDED = ("indices", "labels", "originals", "reconstructions")
_WORST = ("worst_indices", "worst_originals", "worst_reconstructions", "worst_mse")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures of one attack: ``(m, c, h, w)`` uint8 beside what came back, and the pairs with the least error.

    Args:
        indices: ``(m,)``, positions in the test split.
        labels: ``(m,)``, class indices.
        worst_mse: ``(k,)``, of pictures in [0, 1].
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    originals: Pixels
    reconstructions: Pixels
    worst_indices: NDArray[np.int64]
    worst_originals: Pixels
    worst_reconstructions: Pixels
    worst_mse: NDArray[np.float64]

    @property
    def worst_psnr_db(self) -> list[float]:
        """PSNR of the worst pairs."""
        return [_decibels(float(mse)) for mse in self.worst_mse]

    def same_pictures(self, other: Samples) -> bool:
        """Whether both show the same originals."""
        return np.array_equal(self.indices, other.indices) and np.array_equal(self.originals, other.originals)


def psnr_db(a: Pixels, b: Pixels) -> float:
    """PSNR of two uint8 pictures, dB, capped."""
    return _decibels(float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)) / 255.0**2)


def _decibels(mse: float) -> float:
    return float(-10.0 * np.log10(max(mse, 10.0 ** (-PSNR_CAP_DB / 10.0))))


def load_samples(run: Run) -> Samples | None:
    """The pictures of the run's headline attack; None where they are not stored.

    Raises:
        InputError: the file is outside the run's folder, or is not what the format says.
    """
    attack = run.headline
    if attack is None:
        return None
    folder = run.record.path.resolve()
    file = (folder / attack.samples).resolve()
    if not file.is_relative_to(folder):
        raise InputError(f"expected samples inside '{folder}', got '{attack.samples}': restore attacks.json")
    if not file.is_file():
        return None
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a safetensors file at '{file}', got {error}: run the attack again") from error
    return _samples(tensors, file)


def _samples(tensors: Mapping[str, NDArray[np.generic]], file: Path) -> Samples:
    missing = [name for name in (*_NEEDED, *_WORST) if name not in tensors]
    if missing:
        raise InputError(f"expected '{missing[0]}' in '{file}', got {sorted(tensors)}: run the attack again")
    for group, count in ((_NEEDED, len(tensors["indices"])), (_WORST, len(tensors["worst_indices"]))):
        for name in group:
            pictures = name.endswith(("originals", "reconstructions"))
            axes = 4 if pictures else 1
            value = tensors[name]
            if value.ndim != axes or len(value) != count or (pictures and value.dtype != np.uint8):
                raise InputError(
                    f"expected {count} {'uint8 pictures (m, c, h, w)' if pictures else 'numbers'} as '{name}' in "
                    f"'{file}', got {value.dtype} {value.shape}: run the attack again"
                )
    return Samples(
        tensors["indices"].astype(np.int64),
        tensors["labels"].astype(np.int64),
        tensors["originals"].astype(np.uint8),
        tensors["reconstructions"].astype(np.uint8),
        tensors["worst_indices"].astype(np.int64),
        tensors["worst_originals"].astype(np.uint8),
        tensors["worst_reconstructions"].astype(np.uint8),
        tensors["worst_mse"].astype(np.float64),
    )


@dataclass(frozen=True, slots=True)
class Encoder:
    """Pictures to data URIs at a size that keeps the whole page small.

    Args:
        side: the most pixels along a side; larger pictures are averaged down.
    """

    side: int

    @classmethod
    def fitting(cls, shown: list[Samples]) -> Encoder:
        """The largest side at which all pictures of the page stay within 1.8 MB, at least 32."""
        for side in _SIDES:
            encoder = cls(side)
            if sum(encoder._estimate(samples) for samples in shown) <= _BUDGET_BYTES:
                return encoder
        return cls(_SIDES[-1])

    def _estimate(self, samples: Samples) -> int:
        """Bytes of the text of all pictures, if all were as hard as the first original."""
        count = 2 * (len(samples.originals) + len(samples.worst_originals))
        return count * len(self.data_uri(samples.originals[0])) if len(samples.originals) else 0

    def data_uri(self, picture: Pixels) -> str:
        """A picture ``(c, h, w)`` uint8, one or three channels (of others the first), as ``data:image/png``."""
        if len(picture) == 3:
            image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)), "RGB")
        else:
            image = Image.fromarray(np.ascontiguousarray(picture[0]), "L")
        if max(image.size) > self.side:
            image.thumbnail((self.side, self.side), Image.Resampling.BOX)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
