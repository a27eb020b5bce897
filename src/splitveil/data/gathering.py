"""Many pictures into one table: in memory, or in a file of the cache; corrupt ones are counted and named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.cache import build_entry
from splitveil.data.images import Picture, open_picture
from splitveil.data.reading import Reading
from splitveil.data.rows import Rows, StoredRows, take_rows
from splitveil.data.stacks import FileStack, MemoryStack
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError

__all__ = ["Gathered", "gather_pictures"]

_CHUNK = 256
_CHUNK_BYTES = 64 << 20
# Below this area the interpreter, not the decoder, is the limit, and threads cost more than they give (measured).
_THREADED_PIXELS = 128 * 128
_NAMED = 5
_FIRST = 8  # pictures that tell how large all are; the first few may be corrupt

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """Decoded pictures.

    Args:
        images: ``(n, c, h, w)``, uint8: one channel if all are grey, else three.
        kept: ``(n,)`` int64, their places among those that were asked for.
        skipped: the names of those that did not decode.
    """

    images: Rows
    kept: Tensor
    skipped: tuple[str, ...] = ()

    def parts(self, train: int, tested: bool) -> tuple[Rows, Rows | None]:
        """Those of the first `train` that were asked for, and the others, where there is a test table."""
        cut, places = int((self.kept < train).sum()), torch.arange(len(self.kept))
        if not tested:
            return self.images, None
        return take_rows(self.images, places[:cut]), take_rows(self.images, places[cut:])

    def tables(self, labels: Tensor, train: int) -> tuple[ImageTable, ImageTable | None]:
        """As `parts`, with labels ``(m,)`` of all that were asked for; those beyond `train` are the test table."""
        known, cut = labels[self.kept], int((self.kept < train).sum())
        learn, test = self.parts(train, train < len(labels))
        return ImageTable(learn, known[:cut]), None if test is None else ImageTable(test, known[cut:])


def gather_pictures(
    pictures: Iterable[Picture], total: int, reading: Reading, key: Callable[[], str] | None = None
) -> Gathered:
    """Decode pictures, once: those that are in the cache already are not decoded again.

    Args:
        pictures: `total` of them.
        total: how many.
        reading: how.
        key: to know them again by, such as a `fingerprint` of their files; None where they are never streamed.

    Raises:
        InputError: pictures that do not decode, counted and named; two of different size; too many for memory.
        OutputError: no room for the decoded pictures.
    """
    source = iter(pictures)
    if key is None or reading.stream is False:
        return _in_memory(source, total, reading)
    if reading.stream is None:
        first = list(islice(source, _FIRST))
        source = chain(first, source)
        if not reading.streams(total * max((_largest(picture, reading) for picture in first), default=0)):
            return _in_memory(source, total, reading)
    name = f"{key()}-{total}-{reading.size or 'as-is'}{'-skipped' * reading.skip_corrupt}"
    folder, facts = build_entry(name, lambda empty: _into_file(empty, source, total, reading))
    kept = torch.arange(total)
    if facts["skipped"]:
        kept = kept[~torch.isin(kept, torch.tensor([place for place, _ in facts["skipped"]]))]
    channels, height, width = facts["shape"]
    names = tuple(name for _, name in facts["skipped"])
    return Gathered(StoredRows(folder / "rows", (channels, height, width)), kept, names)


def _largest(picture: Picture, reading: Reading) -> int:
    """Bytes that a picture takes if others are in colour."""
    try:
        pixels = open_picture(picture, reading.size)
    except InputError:
        return 0  # it is reported when its turn comes
    return 3 * int(pixels.shape[0]) * int(pixels.shape[1])


def _in_memory(source: Iterator[Picture], total: int, reading: Reading) -> Gathered:
    stack = MemoryStack(total)
    faults = _fill(stack, source, total, reading)
    kept = [place for place in range(total) if place not in faults]
    return Gathered(stack.tensor(), torch.tensor(kept), tuple(faults.values()))


def _into_file(folder: Path, source: Iterator[Picture], total: int, reading: Reading) -> dict[str, Any]:
    with FileStack(folder / "rows", total) as stack:
        faults = _fill(stack, source, total, reading)
        return {"shape": stack.shape, "skipped": list(faults.items())}


def _fill(stack: MemoryStack | FileStack, source: Iterator[Picture], total: int, reading: Reading) -> dict[int, str]:
    """Add all pictures to a stack; returns the places and names of those that do not decode."""
    place, errors = 0, dict[int, tuple[str, InputError]]()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(source, _chunk_size(stack.area))):
            spread: Callable[..., Iterable[Pixels | InputError]] = pool.map if stack.area >= _THREADED_PIXELS else map
            for (name, _), pixels in zip(chunk, spread(_attempt(reading.size), chunk), strict=True):
                if isinstance(pixels, InputError):
                    errors[place] = (name, pixels)
                elif reading.skip_corrupt or not errors:  # a table with holes is not wanted: the rest is only counted
                    stack.add(name, pixels)
                place += 1
            if reading.progress is not None:
                reading.progress(place, total)
    if errors and not reading.skip_corrupt:
        raise _corrupt(list(errors.values()), total)
    return {where: name for where, (name, _) in errors.items()}


def _chunk_size(area: int) -> int:
    """Pictures that are held together; the first ones, of unknown size, are decoded one by one."""
    return max(1, min(_CHUNK, _CHUNK_BYTES // (3 * area))) if area else _CHUNK


def _attempt(size: int | None) -> Callable[[Picture], Pixels | InputError]:
    def attempt(picture: Picture) -> Pixels | InputError:
        try:
            return open_picture(picture, size)
        except InputError as error:
            return error

    return attempt


def _corrupt(errors: Sequence[tuple[str, InputError]], total: int) -> InputError:
    if len(errors) == 1:
        return InputError(f"{errors[0][1]}; or pass skip_corrupt (it is 1 of {total})")
    named = ", ".join(name for name, _ in errors[:_NAMED])
    more = f" and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
    return InputError(
        f"{errors[0][1]} ({len(errors)} of {total} pictures do not decode: {named}{more}; pass skip_corrupt to leave "
        "them out)"
    )
