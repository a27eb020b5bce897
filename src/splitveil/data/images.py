"""Decoding of pictures nobody vouches for."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from splitveil.errors import InputError

__all__ = ["LARGEST_SIDE", "Picture", "decode", "open_picture", "picture_pixels"]

LARGEST_SIDE = 4096
"""Pixels. Larger pictures are refused before they are decoded."""

Picture = tuple[str, Callable[[], BinaryIO | NDArray[np.uint8]]]
"""What a picture is called in an error, and how to open it: a file to decode, or pixels ``(h, w)`` or ``(h, w, 3)``."""

# Only formats that Pillow decodes itself: others, such as EPS, would start a program on bytes we do not trust.
# A camera's MPO begins with a JPEG and opens as one; Pillow knows no opener of that name.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode(stream: BinaryIO, name: str) -> NDArray[np.uint8]:
    """One picture as ``(h, w)`` if it is grey, else ``(h, w, 3)``, uint8.

    Transparency is dropped, 16-bit grey is scaled to 8 bits, and a camera's orientation mark is applied.

    Raises:
        InputError: not a picture, cut off, or too large; names it.
    """
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                raise _too_large(name, f"{image.width}x{image.height}")
            return picture_pixels(image, name)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"expected a picture in {name}, got bytes that do not decode as any of {', '.join(_FORMATS)}: "
            "convert or remove it"
        ) from error
    except Exception as error:  # hostile bytes make Pillow raise nearly anything, from SyntaxError to struct.error
        raise InputError(
            f"expected a picture in {name}, got bytes that do not decode ({type(error).__name__}: {error}): "
            "restore or remove it"
        ) from error


def _too_large(name: str, got: str) -> InputError:
    return InputError(f"expected a picture of at most {LARGEST_SIDE} pixels a side, got {got} in {name}: resize it")


def picture_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """The pixels of a picture that is open, see `decode`."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"expected at most 16 bits per pixel in {name}, got more: convert it to 8 bits")
        return ((deep * 255 + 32767) // 65535).astype(np.uint8)
    if image.mode == "F":
        raise InputError(
            f"expected whole numbers as pixels in {name}, got floats of unknown range: convert it to 8 bits"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def open_picture(picture: Picture, size: int | None = None) -> NDArray[np.uint8]:
    """The pixels of a picture, resized to squares of this side where one is given.

    Raises:
        InputError: it cannot be read, or does not decode; names it.
    """
    name, open_ = picture
    try:
        opened = open_()
        if isinstance(opened, np.ndarray):
            pixels = opened
        else:
            with opened as stream:
                pixels = decode(stream, name)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BILINEAR))
