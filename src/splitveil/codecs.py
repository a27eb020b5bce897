"""Codecs: how a release is framed as bytes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from splitveil.contracts import Codec, FeatureSpec, interval
from splitveil.errors import InputError, SpecError

__all__ = ["Float32Codec", "QuantisedCodec"]

_MOST_BITS = 16


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


class QuantisedCodec(Codec):
    """``2^bits`` levels, evenly spread over a range, packed without gaps: ``ceil(bits q / 8)`` bytes per release.

    The receiver gets the nearest level. While training, the gradient passes as if nothing was rounded
    (straight-through), and not where values lie beyond the range.

    Args:
        bits: 1 to 16, per value.
        low: of the range; values below are sent as it.
        high: of the range.

    Example:
        >>> codec, spec = QuantisedCodec(2, 0.0, 1.0), FeatureSpec.of((4,))
        >>> data = codec.encode(torch.tensor([[0.0, 0.3, 0.6, 2.0]]))
        >>> len(data), [round(value, 2) for value in codec.decode(data, spec)[0].tolist()]
        (1, [0.0, 0.33, 0.67, 1.0])
    """

    def __init__(self, bits: int, low: float = 0.0, high: float = 1.0) -> None:
        if type(bits) is not int or not 1 <= bits <= _MOST_BITS:
            raise SpecError(f"expected bits from 1 to {_MOST_BITS}, got {bits!r}")
        self.bits, (self.low, self.high) = bits, interval(low, high, "the levels")
        self._levels = 2**bits - 1

    def __eq__(self, other: object) -> bool:
        mine = (self.bits, self.low, self.high)
        return isinstance(other, QuantisedCodec) and mine == (other.bits, other.low, other.high)

    def __hash__(self) -> int:
        return hash((self.bits, self.low, self.high))

    def encode(self, r: Tensor) -> bytes:
        """``(n, *r)`` to bytes; each release begins at a byte."""
        levels = self._level(r.detach().float().cpu()).flatten(1).numpy().astype(np.uint16)
        shifts = np.arange(self.bits - 1, -1, -1, dtype=np.uint16)
        ones = (levels[:, :, None] >> shifts) & 1
        return np.packbits(ones.reshape(len(levels), levels.shape[1] * self.bits).astype(np.uint8), axis=1).tobytes()

    def decode(self, data: bytes, spec: FeatureSpec) -> Tensor:
        """Bytes to ``(n, *r)``."""
        row = -(-self.bits * spec.numel // 8)
        if len(data) % row:
            raise InputError(f"expected a multiple of {row} bytes for releases of shape {spec.shape}, got {len(data)}")
        packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, row)
        ones = np.unpackbits(packed, axis=1)[:, : self.bits * spec.numel].reshape(-1, spec.numel, self.bits)
        weights = 2 ** np.arange(self.bits - 1, -1, -1, dtype=np.int64)
        levels = torch.from_numpy((ones.astype(np.int64) * weights).sum(2)).float()
        return self._value(levels).reshape(-1, *spec.shape)

    def roundtrip(self, r: Tensor) -> Tensor:
        """The nearest level of each value."""
        clipped = r.clamp(self.low, self.high)
        return clipped + (self._value(self._level(r)) - clipped).detach()

    def _level(self, r: Tensor) -> Tensor:
        share = (r.clamp(self.low, self.high) - self.low) / (self.high - self.low)
        level: Tensor = (share * self._levels).round()
        return level

    def _value(self, level: Tensor) -> Tensor:
        value: Tensor = self.low + level / self._levels * (self.high - self.low)
        return value
