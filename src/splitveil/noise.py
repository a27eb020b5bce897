"""Sources of noise. A mechanism declares its noise and never draws it; a row's noise never depends on the batch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from splitveil.contracts import NoiseSpec
from splitveil.rng import Rng

__all__ = ["EntropyNoise", "SeededNoise", "to_device"]

_BLOCK_ROWS = 64
_SMALLEST, _LARGEST = 2.0**-25, 1.0 - 2.0**-24  # open interval: an inverse CDF must stay finite


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Numbers drawn on the CPU, on a device; a GPU fetches them while it computes, and nobody waits."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


@dataclass(frozen=True, slots=True)
class SeededNoise:
    """Reproducible noise: row i of a stream is the same whatever the batch size, the order of calls or the device.

    Args:
        rng: the key of the stream.
        start: the row at which the batch begins (a rank's slice of the global batch).

    Example:
        >>> spec = NoiseSpec("noise", (4,), "standard_normal")
        >>> source = SeededNoise(Rng(0))
        >>> bool(torch.equal(source.draw(spec, 100)[:3], source.draw(spec, 3)))
        True
    """

    rng: Rng
    start: int = 0
    device: torch.device | str = "cpu"

    def draw(self, spec: NoiseSpec, n: int) -> Tensor:
        """Rows ``start`` to ``start + n`` of the stream named by the spec.

        Returns:
            Tensor ``(n, *spec.shape)``, float32.
        """
        first, last = self.start // _BLOCK_ROWS, -(-(self.start + n) // _BLOCK_ROWS)
        blocks = [self._block(spec, index) for index in range(first, max(last, first + 1))]
        offset = self.start - first * _BLOCK_ROWS
        return torch.cat(blocks)[offset : offset + n].to(self.device)

    def _block(self, spec: NoiseSpec, index: int) -> Tensor:
        generator = self.rng.child(spec.name, index).generator()
        shape = (_BLOCK_ROWS, *spec.shape)
        if spec.law == "standard_normal":
            return torch.randn(shape, generator=generator)
        return torch.rand(shape, generator=generator).clamp_(_SMALLEST, _LARGEST)


@dataclass(frozen=True, slots=True)
class EntropyNoise:
    """Noise from the operating system's entropy: what a device that serves must use.

    Example:
        >>> EntropyNoise().draw(NoiseSpec("noise", (2,), "uniform"), 3).shape
        torch.Size([3, 2])
    """

    device: torch.device | str = "cpu"

    def draw(self, spec: NoiseSpec, n: int) -> Tensor:
        """Fresh noise.

        Returns:
            Tensor ``(n, *spec.shape)``, float32.
        """
        shape = (n, *spec.shape)
        bits = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype="<u8") >> np.uint64(11)
        uniform = torch.from_numpy((bits + 0.5) * 2.0**-53).reshape(shape).clamp_(2.0**-54, 1 - 2.0**-53)
        if spec.law == "standard_normal":
            return cast(Tensor, torch.special.ndtri(uniform)).float().to(self.device)
        return uniform.float().clamp_(_SMALLEST, _LARGEST).to(self.device)
