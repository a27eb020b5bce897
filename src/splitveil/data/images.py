"""Decoding of pictures nobody vouches for, once, into one tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from splitveil.data.tables import Progress
from splitveil.errors import InputError

__all__ = ["LARGEST_SIDE", "LARGEST_TABLE_BYTES", "Picture", "decode", "stack_pictures"]

LARGEST_SIDE = 4096
"""Pixels. Larger pictures are refused before they are decoded."""

LARGEST_TABLE_BYTES = 32 * 2**30
"""Decoded bytes of all pictures together; more would be killed by the system rather than refused with a reason."""

Picture = tuple[str, Callable[[], BinaryIO]]
"""What a picture is called in an error, and how to open it."""

# Only formats that Pillow decodes itself: others, such as EPS, would start a program on bytes we do not trust.
# A camera's MPO begins with a JPEG and opens as one; Pillow knows no opener of that name.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_CHUNK = 256
# Below this area the interpreter, not the decoder, is the limit, and threads cost more than they give (measured).
_THREADED_PIXELS = 128 * 128


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
            return _pixels(ImageOps.exif_transpose(image), name)
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


def _pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
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


def stack_pictures(pictures: Iterable[Picture], total: int, progress: Progress | None = None) -> Tensor:
    """All pictures as one tensor ``(n, c, h, w)``, uint8: one channel if all are grey, else three.

    Args:
        pictures: `total` of them, all of one size.
        progress: told after each chunk.

    Raises:
        InputError: a picture that does not decode, or two of different size; names them.
    """
    stack = _Stack(total)
    source = iter(pictures)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(source, _CHUNK)):
            spread: Callable[..., Iterable[NDArray[np.uint8]]] = pool.map if stack.area >= _THREADED_PIXELS else map
            for (name, _), pixels in zip(chunk, spread(_open, chunk), strict=True):
                stack.add(name, pixels)
            if progress is not None:
                progress(stack.done, total)
    return stack.tensor()


def _open(picture: Picture) -> NDArray[np.uint8]:
    name, open_ = picture
    try:
        with open_() as stream:
            return decode(stream, name)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


class _Stack:
    """A buffer ``(n, c, h, w)`` that is grey until the first picture in colour comes."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.area = total, 0, 0
        self._first = ""
        self._buffer: NDArray[np.uint8] | None = None

    def add(self, name: str, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        if self._buffer is None:
            self._first, self.area = name, height * width
            self._buffer = self._allocate((1 if pixels.ndim == 2 else 3, height, width))
        if (height, width) != self._buffer.shape[2:]:
            raise InputError(
                f"expected pictures of one size, got {self._buffer.shape[3]}x{self._buffer.shape[2]} in {self._first} "
                f"and {width}x{height} in {name}: resize them to one size first"
            )
        if pixels.ndim == 3 and self._buffer.shape[1] == 1:
            grey, self._buffer = self._buffer, self._allocate((3, height, width))
            self._buffer[: self.done] = grey[: self.done]
        self._buffer[self.done] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        self.done += 1

    def _allocate(self, shape: tuple[int, int, int]) -> NDArray[Any]:
        needed = self.total * shape[0] * shape[1] * shape[2]
        if needed > LARGEST_TABLE_BYTES:
            raise InputError(
                f"expected pictures of at most {LARGEST_TABLE_BYTES / 2**30:.0f} GiB when decoded, got {self.total} of "
                f"{shape[2]}x{shape[1]} or {needed / 2**30:.1f} GiB: resize them, or use fewer"
            )
        return np.empty((self.total, *shape), dtype=np.uint8)

    def tensor(self) -> Tensor:
        if self._buffer is None:
            raise InputError("expected at least one picture, got none: check the path and the file")
        return torch.from_numpy(self._buffer[: self.done])
