"""Pictures in an ``.npz`` file of arrays, the layout of MedMNIST among them.

```
images (n, h, w[, c]) uint8, labels (n,)                                       one table
train_images, train_labels, test_images, test_labels [, val_images, val_labels]   two tables; val is added to train
```
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.tables import ImageTable, Source, existing_path, join_tables, make_source
from splitveil.errors import InputError

__all__ = ["load_arrays"]

_PARTS = ("train", "val", "test")
_MOST_BYTES = 64 << 30
_CHANNELS = (1, 3)


def load_arrays(path: Path | None) -> Source:
    """An ``.npz`` file as a source; nothing of it is unpickled.

    Args:
        path: the file.

    Raises:
        MissingDataError: nothing is there.
        InputError: another layout, other types, or sizes that do not fit.
    """
    file = existing_path(path, "npz")
    arrays = _read(file)
    if {"images", "labels"} <= set(arrays):
        return make_source(file.stem, _table(file, arrays, "images", "labels"))
    parts = [part for part in _PARTS if f"{part}_images" in arrays]
    if parts[:1] != ["train"]:
        raise InputError(
            f"expected arrays 'images' and 'labels', or 'train_images' and 'train_labels', in '{file}', got "
            f"{', '.join(sorted(arrays)) or 'none'}: save it with np.savez(file, images=..., labels=...)"
        )
    tables = {part: _table(file, arrays, f"{part}_images", f"{part}_labels") for part in parts}
    learn = [tables[part] for part in parts if part != "test"]
    joined = join_tables(learn)
    return make_source(file.stem, joined, tables.get("test"))


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays, once their headers say that they are plain numbers of a size that the file can hold."""
    try:
        with zipfile.ZipFile(file) as archive:
            found: dict[str, NDArray[Any]] = {}
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise InputError(f"expected arrays in '{file}', got the file '{member.filename}': save it anew")
                with archive.open(member) as stream:
                    _check_header(file, member, stream)
                with archive.open(member) as stream:
                    found[member.filename[:-4]] = npy.read_array(stream, allow_pickle=False)
            return found
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise InputError(f"expected an .npz file at '{file}', got {error}: save it anew") from error


def _check_header(file: Path, member: zipfile.ZipInfo, stream: Any) -> None:
    version = npy.read_magic(stream)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.hasobject or dtype.kind not in "uib":
        raise InputError(
            f"expected whole numbers in '{member.filename}' of '{file}', got {dtype}: nothing is unpickled, and "
            "pictures are bytes"
        )
    needed = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
    if needed > min(_MOST_BYTES, member.file_size):
        raise InputError(f"expected '{member.filename}' of '{file}' to hold {needed} bytes, got {member.file_size}")


def _table(file: Path, arrays: Mapping[str, NDArray[Any]], images: str, labels: str) -> ImageTable:
    if labels not in arrays:
        raise InputError(f"expected '{labels}' beside '{images}' in '{file}', got none")
    pictures, numbers = arrays[images], arrays[labels]
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4):
        raise InputError(
            f"expected '{images}' of '{file}' as (n, h, w) or (n, h, w, c) in uint8, got {pictures.shape} in "
            f"{pictures.dtype}: scale to 0..255 and save it anew"
        )
    numbers = numbers.reshape(len(numbers), -1)
    if len(numbers) != len(pictures) or numbers.shape[1] != 1:
        raise InputError(
            f"expected one label for each of {len(pictures)} pictures in '{labels}' of '{file}', got "
            f"{arrays[labels].shape}"
        )
    return ImageTable(_channels_first(file, images, pictures), torch.from_numpy(numbers[:, 0].astype(np.int64)))


def _channels_first(file: Path, name: str, pictures: NDArray[Any]) -> Tensor:
    if pictures.ndim == 3:
        return torch.from_numpy(np.ascontiguousarray(pictures[:, None]))
    if pictures.shape[3] in _CHANNELS:
        return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    if pictures.shape[1] in _CHANNELS:
        return torch.from_numpy(np.ascontiguousarray(pictures))
    raise InputError(f"expected 1 or 3 channels in '{name}' of '{file}', got shape {pictures.shape}")
