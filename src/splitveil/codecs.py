"""Codecs: how a release is framed as bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from splitveil.contracts import Codec, FeatureSpec
from splitveil.errors import InputError

__all__ = ["Float32Codec"]


class Float32Codec(Codec):
    """Little-endian float32, row-major: 4 bytes per value, exact.

    Example:
        >>> codec, spec = Float32Codec(), FeatureSpec.of((2,))
        >>> codec.decode(codec.encode(torch.ones(3, 2)), spec).shape
        torch.Size([3, 2])
    """

    def encode(self, r: Tensor) -> bytes:
        """``(n, *r)`` to ``4 * n * q`` bytes."""
        return r.detach().cpu().contiguous().numpy().astype("<f4").tobytes()

    def decode(self, data: bytes, spec: FeatureSpec) -> Tensor:
        """Bytes to ``(n, *r)``."""
        row = 4 * spec.numel
        if len(data) % row:
            raise InputError(f"expected a multiple of {row} bytes for releases of shape {spec.shape}, got {len(data)}")
        values = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return torch.from_numpy(values).reshape(-1, *spec.shape)

    def roundtrip(self, r: Tensor) -> Tensor:
        """The release itself: float32 loses nothing."""
        return r
