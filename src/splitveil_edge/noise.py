"""Noise on the device: from the operating system's entropy, or keyed to the exact bytes of the picture."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.errors import InputError
from splitveil_edge.passport import NoiseLaw

__all__ = ["EntropyNoise", "KeyedNoise", "Noise", "shape_noise"]

_SMALLEST, _LARGEST = 2.0**-25, 1.0 - 2.0**-24  # open interval: an inverse CDF must stay finite
_WORD = 8  # bytes per uniform
_LEAST_SECRET = 16


class Noise(Protocol):
    """Where the device's noise comes from."""

    @property
    def repeats(self) -> bool:
        """Whether one picture always gets the same noise, so that its releases cannot be averaged."""
        ...

    @property
    def identity(self) -> bytes:
        """Names the key without giving it away, since another one makes another release; empty if nothing repeats."""
        ...

    def draw(self, law: NoiseLaw, x: NDArray[np.float32], salt: bytes) -> NDArray[np.float32]:
        """Noise for the pictures ``x (n, c, h, w)``: ``(n, *law.shape)``; `salt` is the digest of the passport."""
        ...


@dataclass(frozen=True, slots=True)
class EntropyNoise:
    """Fresh noise from the operating system for every release: what the certificates assume.

    Example:
        >>> law = NoiseLaw("noise", (2,), "uniform")
        >>> EntropyNoise().draw(law, np.zeros((3, 1, 8, 8), np.float32), b"").shape
        (3, 2)
    """

    repeats: bool = field(default=False, init=False)
    identity: bytes = field(default=b"", init=False)

    def draw(self, law: NoiseLaw, x: NDArray[np.float32], salt: bytes) -> NDArray[np.float32]:
        """Fresh noise; neither the pictures nor the salt matter."""
        return shape_noise(os.urandom(_needed(law, len(x))), law, len(x))


@dataclass(frozen=True, slots=True)
class KeyedNoise:
    """The same noise whenever the device releases the very same picture, so that averaging gains nothing.

    ```
    key = BLAKE2b(bytes of x; secret)      noise = SHAKE-256(key | passport | name of the noise)
    ```
    It protects against averaging of **identical** pictures, bit by bit. It does not protect near duplicates: two frames
    of a still scene differ somewhere, and get unrelated noise. It shows the cloud when a picture comes again. And who
    learns the secret can remove the noise from all releases, past ones too: keep it as you keep the pictures.

    Args:
        secret: 16 bytes or more from a cryptographic source, of this device alone.

    Raises:
        InputError: the secret is too short.

    Example:
        >>> noise, law = KeyedNoise(os.urandom(32)), NoiseLaw("noise", (2,), "standard_normal")
        >>> x = np.zeros((1, 1, 8, 8), np.float32)
        >>> bool((noise.draw(law, x, b"") == noise.draw(law, x, b"")).all())
        True
    """

    secret: bytes = field(repr=False)
    repeats: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) < _LEAST_SECRET:
            raise InputError(
                f"expected a secret of at least {_LEAST_SECRET} bytes, got fewer: make one with os.urandom(32)"
            )

    @property
    def identity(self) -> bytes:
        """16 bytes that only this secret has."""
        return hashlib.blake2b(self.secret, digest_size=16, person=b"splitveil-ledger").digest()

    def draw(self, law: NoiseLaw, x: NDArray[np.float32], salt: bytes) -> NDArray[np.float32]:
        """The noise that belongs to these pictures under this passport."""
        rows = [self._stream(law, row.astype("<f4").tobytes(), salt) for row in x]
        return shape_noise(b"".join(rows), law, len(x))

    def _stream(self, law: NoiseLaw, picture: bytes, salt: bytes) -> bytes:
        key = hashlib.blake2b(self.secret, digest_size=64, person=b"splitveil-secret").digest()
        seed = hashlib.blake2b(picture, key=key, digest_size=64, person=b"splitveil-noise").digest()
        name = law.name.encode()
        framed = b"".join(len(part).to_bytes(4, "big") + part for part in (seed, salt, name))
        return hashlib.shake_256(framed).digest(_needed(law, 1))


def shape_noise(data: bytes, law: NoiseLaw, n: int) -> NDArray[np.float32]:
    """Noise of a law from uniform bytes, by 53-bit uniforms ``u``; the normal by Box and Muller, in float64.

    ```
    uniform u      standard normal  sqrt(-2 ln u1) cos(2 pi u2)
    ```

    Args:
        data: 8 bytes per uniform, 16 per normal; row by row.
        law: of the noise.
        n: rows.

    Returns:
        ``(n, *law.shape)``, float32.

    Reference: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    """
    bits = np.frombuffer(data, dtype="<u8") >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
    values: NDArray[Any]
    if law.law == "uniform":
        values = uniform.astype(np.float32).clip(_SMALLEST, _LARGEST)
    else:
        first, second = uniform[0::2], uniform[1::2]
        values = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
    return values.astype(np.float32).reshape(n, *law.shape)


def _needed(law: NoiseLaw, n: int) -> int:
    return n * math.prod(law.shape) * _WORD * (1 if law.law == "uniform" else 2)
