"""A bundle as a subject: its edge's graph, under the noise that its passport declares."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from splitveil.attacks.onnx import OnnxSubject
from splitveil.codecs import Float32Codec, QuantisedCodec
from splitveil.combining import Combine, around
from splitveil.contracts import NoiseSpec
from splitveil.errors import InputError
from splitveil_edge.passport import EDGE, PASSPORT, Passport, read_passport

__all__ = ["BundleSubject", "holds_a_bundle"]


def holds_a_bundle(text: str) -> bool:
    """Whether a text names a folder with a passport."""
    return (Path(text) / PASSPORT).is_file()


class BundleSubject(OnnxSubject):
    """What a device runs: ``edge.onnx`` with the digest, the noise and the release of its passport.

    It is a black box: graphs have no gradient. Its cloud's graph is not among what it offers, since attacks that use a
    tail need gradients through it; audit the run for those.

    Args:
        bundle: folder.
        combine: see `OnnxSubject`.

    Raises:
        TrustError: the graph is not the one of the passport.
        InputError: the graph says other noise, or another release, than the passport.
    """

    def __init__(self, bundle: Path | str, combine: Combine | str | None = None) -> None:
        folder = Path(bundle)
        self.passport: Passport = read_passport(folder)
        self.passport.check_files(folder, [EDGE])
        super().__init__(folder / EDGE, combine)
        declared = tuple(NoiseSpec(law.name, law.shape, law.law) for law in self.passport.noise)
        shapes = (self.input_shape, self.release_spec.shape)
        if self.noise_specs != declared or shapes != (self.passport.input_shape, self.passport.release_shape):
            raise InputError(
                f"expected '{folder / EDGE}' with the noise {declared} of its passport, got {self.noise_specs} with "
                f"pictures and releases {shapes}: export the bundle again"
            )

    @property
    def zero(self) -> Tensor:
        """``(*r)``: what a zero arrives as, by the codec of the passport."""
        wire = self.passport.codec
        codec = Float32Codec() if wire.name == "float32" else QuantisedCodec(wire.bits, wire.low, wire.high)
        return codec.roundtrip(torch.zeros(self.release_spec.shape))

    def combine(self, r: Tensor) -> Tensor:
        """``(n, m, *r)`` to ``(n, *r)``, zeros as they were before the codec."""
        return around(self.zero.to(r), super().combine)(r)
