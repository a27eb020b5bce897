"""The inverse networks by name: from a release back to a picture."""

from __future__ import annotations

from typing import Literal, get_args

from splitveil.contracts import FeatureSpec
from splitveil.errors import UnknownNameError
from splitveil.nets.inversion import PictureDecoder, ResidualDecoder
from splitveil.nets.subpixel import SubpixelDecoder
from splitveil.nets.tokens import TokenDecoder
from splitveil.nets.unet import UNetDecoder

__all__ = ["DecoderArchitecture", "check_architecture", "make_decoder"]

DecoderArchitecture = Literal["residual", "subpixel", "unet", "tokens"]

_DECODERS: dict[str, type[ResidualDecoder] | type[SubpixelDecoder] | type[UNetDecoder] | type[TokenDecoder]] = {
    "residual": ResidualDecoder,
    "subpixel": SubpixelDecoder,
    "unet": UNetDecoder,
    "tokens": TokenDecoder,
}


def check_architecture(name: str) -> None:
    """Raise `UnknownNameError` unless the name is a `DecoderArchitecture`."""
    if name not in get_args(DecoderArchitecture):
        raise UnknownNameError("decoder architecture", name, get_args(DecoderArchitecture))


def make_decoder(
    name: str, release: FeatureSpec, picture: tuple[int, ...], *, channels: int, blocks: int
) -> PictureDecoder:
    """The network of that name, initialised from torch's global generator.

    Args:
        name: ``residual``, ``subpixel``, ``unet`` or ``tokens``.
        release: spec of r.
        picture: ``(c, h, w)``.
        channels: of the network.
        blocks: of the network.

    Raises:
        UnknownNameError: no such network.
        SpecError: sizes below 1.

    Example:
        >>> net = make_decoder("unet", FeatureSpec.of((8, 4, 4)), (1, 8, 8), channels=4, blocks=1)
        >>> type(net).__name__
        'UNetDecoder'
    """
    check_architecture(name)
    return _DECODERS[name](release, picture, channels=channels, blocks=blocks)
