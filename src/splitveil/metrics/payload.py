"""How much one release weighs on the wire."""

from __future__ import annotations

import torch

from splitveil.contracts import Codec, FeatureSpec

__all__ = ["payload_bytes"]


def payload_bytes(codec: Codec, spec: FeatureSpec) -> int:
    """Bytes of one release of that spec through a codec.

    Example:
        >>> from splitveil.codecs import Float32Codec
        >>> payload_bytes(Float32Codec(), FeatureSpec.of((8, 4, 4)))
        512
    """
    return len(codec.encode(torch.zeros(1, *spec.shape)))
