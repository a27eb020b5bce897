"""The device's side of a bundle: from pictures to what is sent, and from the reply to the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.errors import InputError, UsageError
from splitveil_edge.graphs import EdgeGraphs
from splitveil_edge.ledger import Ledger
from splitveil_edge.noise import EntropyNoise, Noise
from splitveil_edge.passport import Passport, read_passport
from splitveil_edge.wire import wire_codec

__all__ = ["Edge"]


class Edge:
    """A bundle on a device, without a network.

    ```
    x ──[ ledger: is it in the budget? ]──[ edge.onnx ]── r ══ wire ══ reply ──[ finish.onnx ]── output
                       noise of the device ─┘
    ```

    Args:
        bundle: folder with ``edge.onnx``, ``passport.json`` and, where there is one, ``finish.onnx``.
        public_key: of who must have signed the passport, PEM or 32 bytes; None takes the bundle as it is.
        noise: where noise comes from; the operating system by default.
        ledger: counts every release, and refuses those beyond its budget; None counts nothing.
        threads: of ONNX Runtime within one call; 0 for all cores.

    Raises:
        MissingFileError: no bundle, or a file of it is missing.
        TrustError: a digest, the signature or the expiry does not hold, or a graph is not what the passport says.
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        public_key: bytes | None = None,
        noise: Noise | None = None,
        ledger: Ledger | None = None,
        threads: int = 0,
    ) -> None:
        folder = Path(bundle)
        self.passport: Passport = read_passport(folder, public_key=public_key)
        self.codec = wire_codec(self.passport)
        self.noise: Noise = noise if noise is not None else EntropyNoise()
        self.ledger = ledger
        self._graphs = EdgeGraphs(folder, self.passport, threads)
        self._salt = bytes.fromhex(self.passport.digest)

    def check(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Pictures as float32, or `InputError` unless they are ``(n, c, h, w)`` of this bundle in [0, 1]."""
        shape = self.passport.input_shape
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise InputError(f"expected x as an array of floats in [0, 1], got {got}: divide bytes by 255")
        if x.shape[1:] != shape or x.ndim != len(shape) + 1 or not len(x):
            cure = ": the batch axis is missing, pass x[None]" if x.shape == shape else ""
            raise InputError(f"expected x of shape (n, {', '.join(map(str, shape))}), n >= 1, got {x.shape}{cure}")
        if not (x.min() >= 0.0 and x.max() <= 1.0):
            raise InputError(f"expected x in [0, 1], got {x.min():g} to {x.max():g}: divide bytes by 255")
        return np.ascontiguousarray(x, dtype=np.float32)

    def release(self, x: NDArray[Any], about: str | Sequence[str] | None = None) -> NDArray[np.float32]:
        """The only thing that may leave the device; the ledger counts it first.

        Args:
            x: ``(n, c, h, w)`` in [0, 1].
            about: whom the ledger counts it for, one name for all or one per picture; the picture itself by default.

        Returns:
            r, ``(n, *r)``.

        Raises:
            InputError: x is something else.
            BudgetError: a budget would be passed.
        """
        pictures = self.check(x)
        self.passport.check_expiry()
        if self.ledger is not None:
            self._count(self.ledger, pictures, about)
        laws = self.passport.noise
        return self._graphs.release(pictures, {law.name: self.noise.draw(law, pictures, self._salt) for law in laws})

    def finish(self, reply: NDArray[Any]) -> NDArray[np.float32]:
        """What the cloud answered to the output, ``(n, *output)``."""
        return self._graphs.finish(reply)

    def _count(self, ledger: Ledger, pictures: NDArray[np.float32], about: str | Sequence[str] | None) -> None:
        exact = [picture.astype("<f4").tobytes() for picture in pictures]
        subjects = [b"picture:" + data for data in exact]
        if about is not None:
            names = [about] * len(exact) if isinstance(about, str) else list(about)
            if len(names) != len(exact):
                raise UsageError(f"expected one name for all or one per picture, got {len(names)} for {len(exact)}")
            subjects = [b"name:" + name.encode() for name in names]
        key = self._salt + self.noise.identity
        known = [key + data for data in exact] if self.noise.repeats else []
        ledger.spend(subjects, self.passport.release_nats, known)
