"""What goes over the wire: numpy twins of the codecs that the split was trained with."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.errors import InputError
from splitveil_edge.passport import Passport

__all__ = ["Float32Wire", "QuantisedWire", "WireCodec", "wire_codec"]


class WireCodec(Protocol):
    """Between releases ``(n, *r)`` of float32 and the tensor that is sent.

    Attributes:
        datatype: of that tensor, as the protocol names it.
        shape: of one row of it.
    """

    datatype: str
    shape: tuple[int, ...]

    def encode(self, r: NDArray[Any]) -> NDArray[Any]:
        """``(n, *r)`` to what is sent, ``(n, *shape)``; NaN and infinity raise `InputError`."""
        ...

    def decode(self, sent: NDArray[Any]) -> NDArray[np.float32]:
        """What was sent to ``(n, *r)``."""
        ...


def wire_codec(passport: Passport) -> WireCodec:
    """The codec of a passport."""
    codec, shape = passport.codec, passport.release_shape
    if codec.name == "float32":
        return Float32Wire(shape)
    return QuantisedWire(shape, codec.bits, codec.low, codec.high)


class Float32Wire:
    """The release as it is: 4 bytes per value, exact.

    Example:
        >>> Float32Wire((2,)).decode(np.ones((3, 2), np.float32)).shape
        (3, 2)
    """

    datatype = "FP32"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def encode(self, r: NDArray[Any]) -> NDArray[np.float32]:
        """``(n, *r)``, unchanged."""
        return _checked(r, self.shape)

    def decode(self, sent: NDArray[Any]) -> NDArray[np.float32]:
        """``(n, *r)``, unchanged."""
        return _checked(sent, self.shape)


class QuantisedWire:
    """``2^bits`` levels from low to high, packed without gaps: ``ceil(bits q / 8)`` bytes per release, as UINT8.

    Args:
        release: shape of one r.
        bits: 1 to 16, per value.
        low: of the range; values below are sent as it.
        high: of the range.

    Example:
        >>> wire = QuantisedWire((4,), 2, 0.0, 1.0)
        >>> sent = wire.encode(np.array([[0.0, 0.3, 0.6, 2.0]]))
        >>> sent.tolist(), wire.decode(sent)[0].round(2).tolist()
        ([[27]], [0.0, 0.33000001311302185, 0.6700000166893005, 1.0])
    """

    datatype = "UINT8"

    def __init__(self, release: tuple[int, ...], bits: int, low: float, high: float) -> None:
        self._release, self._count, self._bits = release, math.prod(release), bits
        self._low, self._high, self._span = np.float32(low), np.float32(high), np.float32(high - low)
        self._levels = np.float32(2**bits - 1)
        self.shape: tuple[int, ...] = (-(-bits * self._count // 8),)

    def encode(self, r: NDArray[Any]) -> NDArray[np.uint8]:
        """``(n, *r)`` to ``(n, bytes)``."""
        values = _checked(r, self._release)
        share = (values.clip(self._low, self._high) - self._low) / self._span
        levels = np.rint(share * self._levels).astype(np.uint16).reshape(len(values), self._count)
        if self._bits == 8:
            whole: NDArray[np.uint8] = levels.astype(np.uint8)
            return whole
        shifts = np.arange(self._bits - 1, -1, -1, dtype=np.uint16)
        ones = ((levels[:, :, None] >> shifts) & 1).astype(np.uint8)
        return np.packbits(ones.reshape(len(values), self._count * self._bits), axis=1)

    def decode(self, sent: NDArray[Any]) -> NDArray[np.float32]:
        """``(n, bytes)`` to ``(n, *r)``."""
        if sent.dtype != np.uint8 or sent.ndim != 2 or sent.shape[1:] != self.shape:
            raise InputError(
                f"expected UINT8 of shape (n, {self.shape[0]}), got {sent.dtype} {sent.shape}: encode the release "
                "with the codec of the passport"
            )
        levels = sent.astype(np.float32) if self._bits == 8 else self._unpacked(sent)
        values: NDArray[np.float32] = self._low + levels / self._levels * self._span
        return values.reshape(len(sent), *self._release)

    def _unpacked(self, sent: NDArray[np.uint8]) -> NDArray[np.float32]:
        ones = np.unpackbits(sent, axis=1)[:, : self._bits * self._count].reshape(len(sent), self._count, self._bits)
        weights = (2 ** np.arange(self._bits - 1, -1, -1)).astype(np.float32)
        levels: NDArray[np.float32] = ones.astype(np.float32) @ weights
        return levels


def _checked(r: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if r.ndim != len(shape) + 1 or r.shape[1:] != shape:
        cure = ": the batch axis is missing, pass r[None]" if r.shape == shape else ""
        raise InputError(f"expected r of shape (n, {', '.join(map(str, shape))}), got {r.shape}{cure}")
    values = np.ascontiguousarray(r, dtype=np.float32)
    broken = values.size - int(np.isfinite(values).sum())
    if broken:
        raise InputError(f"expected finite releases, got {broken} values of NaN or infinity: check the picture")
    return values
