"""Any map-style data set: of torchvision, of a user's own, of the hub; whatever has a length and items."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splitveil.data.cache import cache_folder
from splitveil.data.gathering import Gathered, gather_pictures
from splitveil.data.images import Picture, picture_pixels
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import ImageTable, Source, make_source
from splitveil.data.targets import make_bare_source, make_valued_source
from splitveil.errors import InputError, UsageError

__all__ = ["as_source", "from_dataset"]

_PICTURE_KEYS = ("image", "img", "picture", "pixel_values")
_TARGET_KEYS = ("label", "labels", "fine_label", "target", "value", "mask", "annotation")

Pixels = NDArray[np.uint8]


def from_dataset(
    dataset: Any,
    test: Any = None,
    *,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    reading: Reading = PLAIN,
) -> Source:
    """A map-style data set as a source.

    Each item is a picture, a pair of a picture and a target, or a mapping with both. A picture is one of Pillow, an
    array or a tensor in bytes ``(h, w)``, ``(h, w, c)`` or ``(c, h, w)``, or floats in [0, 1] ``(c, h, w)``: leave out
    transforms that normalise or augment. A target is a class, a value or several, or a mask of classes ``(h, w)``.

    Args:
        dataset: has ``len`` and items.
        test: a second one, the test table.
        name: shown in records; the class's own by default.
        class_names: one per label; those in ``dataset.classes`` by default.
        reading: how; pictures that are streamed are decoded anew by each process.

    Raises:
        UsageError: no map-style data set.
        InputError: an item that is none of the above; names it.

    Example:
        >>> items = [(torch.full((1, 8, 8), index / 16), index % 2) for index in range(16)]
        >>> from_dataset(items, name="mine").input_shape
        (1, 8, 8)
    """
    for part in (dataset, *(() if test is None else (test,))):
        if not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
            raise UsageError(
                f"expected a map-style data set, with a length and items by number, got {type(part).__name__}: "
                "materialise an iterable one first"
            )
    count = len(dataset)
    items = _Items([dataset, *(() if test is None else (test,))])
    total = count + (0 if test is None else len(test))
    key = f"live-{uuid4().hex}"
    gathered = gather_pictures(items.pictures(), total, reading, lambda: key)
    for folder in cache_folder().glob(f"{key}*"):  # nobody could find it again
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    told = name or type(dataset).__name__
    return _source(told, gathered, items.targets, count, test is not None, class_names or _names(dataset))


def as_source(data: Any, reading: Reading = PLAIN) -> Source | None:
    """What was passed in place of a name: a source, or a data set as one; None for a name, a path or nothing."""
    if data is None or isinstance(data, (str, Path)):
        return None
    return data if isinstance(data, Source) else from_dataset(data, reading=reading)


@dataclass(slots=True)
class _Items:
    """Reads items one by one, for data sets are seldom safe for threads, and keeps their targets."""

    parts: list[Any]
    targets: list[Any] = field(default_factory=list)

    def pictures(self) -> Iterator[Picture]:
        for part in self.parts:
            for index in range(len(part)):
                name = f"item {index} of {type(part).__name__}"
                try:
                    picture, target = _pair(part[index], name)
                    opened: Callable[[], Pixels] = partial(_same, _pixels(picture, name))
                except OSError as error:  # what Pillow raises for a file that is cut off, too
                    target, opened = None, partial(_fail, InputError(f"cannot read {name}: {error}"))
                self.targets.append(target)
                yield name, opened


def _same(pixels: Pixels) -> Pixels:
    return pixels


def _fail(error: InputError) -> Pixels:
    raise error


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        picture = next((item[key] for key in _PICTURE_KEYS if key in item), None)
        if picture is None:
            raise InputError(
                f"expected a picture under {', '.join(_PICTURE_KEYS)} in {name}, got {', '.join(map(str, item))}"
            )
        return picture, next((item[key] for key in _TARGET_KEYS if key in item), None)
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise InputError(f"expected a picture and a target in {name}, got {len(item)} things")
        return item[0], item[1]
    return item, None


def _pixels(picture: Any, name: str) -> Pixels:
    """``(h, w)`` or ``(h, w, 3)``."""
    if isinstance(picture, Image.Image):
        return picture_pixels(picture, name)
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else np.asarray(picture)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError(
                f"expected floats in [0, 1] in {name}, got {array.min():.3g} to {array.max():.3g}: leave out the "
                "transform that normalises; the model does it"
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise InputError(
            f"expected a picture (h, w), (h, w, c) or (c, h, w) with 1 or 3 channels in bytes in {name}, got "
            f"{array.shape} in {array.dtype}"
        )
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _names(dataset: Any) -> Sequence[str] | None:
    """What torchvision's data sets call their classes."""
    names = getattr(dataset, "classes", None)
    return names if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) else None


def _source(
    name: str, gathered: Gathered, targets: list[Any], count: int, tested: bool, class_names: Sequence[str] | None
) -> Source:
    """What the targets make of the pictures."""
    learn, test = gathered.parts(count, tested)
    held = [targets[place] for place in gathered.kept.tolist()]
    missing = sum(target is None for target in held)
    if missing == len(held):
        return make_bare_source(name, learn, test, skipped=gathered.skipped)
    if missing:
        raise InputError(f"expected a target for every picture of '{name}', got none for {missing} of {len(held)}")
    known = _stacked(name, [np.asarray(target) for target in held])
    first, second = known[: len(learn)], known[len(learn) :]
    if known.ndim == 3:
        masks = (first, None if test is None else second)
        return make_bare_source(name, learn, test, masks=masks, skipped=gathered.skipped)
    if known.dtype == torch.float32:
        other = None if test is None else (test, second)
        return make_valued_source(name, learn, first, other, skipped=gathered.skipped)
    tables = ImageTable(learn, first), None if test is None else ImageTable(test, second)
    return make_source(name, *tables, class_names, skipped=gathered.skipped)


def _stacked(name: str, arrays: list[NDArray[Any]]) -> Tensor:
    """Classes ``(n,)`` int64, values ``(n, t)`` float32, or masks ``(n, h, w)`` uint8."""
    if len({array.shape for array in arrays}) > 1:
        raise InputError(f"expected targets of one shape in '{name}', got several: bring them to one")
    found = np.stack(arrays)
    if found.ndim == 1 and found.dtype.kind in "iub":
        return torch.from_numpy(found.astype(np.int64))
    if found.ndim <= 2 and found.dtype.kind == "f":
        return torch.from_numpy(found.astype(np.float32).reshape(len(found), -1))
    if found.ndim == 3 and found.dtype.kind in "iub" and found.min() >= 0 and found.max() <= 255:
        return torch.from_numpy(found.astype(np.uint8))
    raise InputError(
        f"expected classes, values, or masks (h, w) of classes below 255 in '{name}', got targets of shape "
        f"{found.shape[1:]} in {found.dtype}"
    )
