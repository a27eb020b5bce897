"""A picture file as the array that a bundle takes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.errors import InputError, MissingExtraError, MissingFileError

__all__ = ["read_picture"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # that Pillow decodes itself, without other programs
_LARGEST_SIDE = 4096
_DEEPEST = 65535


def read_picture(file: Path, shape: tuple[int, int, int], *, fit: str = "exact") -> NDArray[np.float32]:
    """One picture ``(1, c, h, w)``, float32 in [0, 1], grey for one channel and RGB for three.

    It is read as training reads one: transparency is dropped, 16-bit grey is scaled to 8 bits, and a camera's
    orientation mark is applied.

    Args:
        file: PNG, JPEG, WebP, BMP, GIF, TIFF or PPM.
        shape: ``(c, h, w)`` that the bundle takes.
        fit: ``exact`` refuses a picture of another size; ``resize`` scales it (bilinear) until it covers the size, and
            keeps the middle, as training with a size does.

    Raises:
        MissingExtraError: pillow is not installed.
        MissingFileError: there is no such file.
        InputError: it is no picture, too large, of floats or more than 16 bits, or of another size.
    """
    if find_spec("PIL") is None:
        raise MissingExtraError("pillow", "png", "reading a picture")
    library = import_module("PIL.Image")
    modes = {1: "L", 3: "RGB"}
    if shape[0] not in modes:
        raise InputError(f"expected a bundle for pictures of 1 or 3 channels, got {shape[0]}: pass arrays in Python")
    try:
        with library.open(file, formats=_FORMATS) as image:
            if max(image.size) > _LARGEST_SIDE:
                raise InputError(f"expected at most {_LARGEST_SIDE} pixels a side in '{file}', got {image.size}")
            pixels = _pixels(library, image, modes[shape[0]], (shape[2], shape[1]), fit, file)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"expected a picture at '{file}', got no such file: check the path") from error
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise InputError(f"expected a picture in '{file}', got {type(error).__name__}: {error}") from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None]).astype(np.float32) / np.float32(255.0)


def _pixels(library: Any, image: Any, mode: str, size: tuple[int, int], fit: str, file: Path) -> NDArray[np.uint8]:
    operations = import_module("PIL.ImageOps")
    plain = _plain(library, operations.exif_transpose(image), file)
    if plain.size != size:
        if fit != "resize":
            raise InputError(
                f"expected {size[0]}x{size[1]} pixels in '{file}', got {plain.size[0]}x{plain.size[1]}: "
                "resize it, or pass --resize"
            )
        plain = operations.fit(plain, size, library.Resampling.BILINEAR)
    return np.asarray(plain.convert(mode), dtype=np.uint8)


def _plain(library: Any, image: Any, file: Path) -> Any:
    """The picture as ``L`` if it is grey, else ``RGB``."""
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > _DEEPEST:
            raise InputError(f"expected at most 16 bits per pixel in '{file}', got more: convert it to 8 bits")
        return library.fromarray(((deep * 255 + _DEEPEST // 2) // _DEEPEST).astype(np.uint8))
    if image.mode == "F":
        raise InputError(f"expected whole numbers as pixels in '{file}', got floats: convert it to 8 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
