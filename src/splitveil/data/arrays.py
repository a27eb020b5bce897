"""Pictures in an ``.npz`` file of arrays, the layout of MedMNIST among them.

```
images (n, h, w[, c]) uint8, labels (n,)                                       one table
train_images, train_labels, test_images, test_labels [, val_images, val_labels]   two tables; val is added to train
```

In place of labels: `targets` (n,) or (n, t), values to learn; `masks` (n, h, w), a class per pixel and 255 where nobody
knows; or neither, for pictures alone.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.reading import memory_bytes
from splitveil.data.tables import ImageTable, Source, existing_path, make_source
from splitveil.data.targets import make_bare_source, make_valued_source
from splitveil.errors import InputError

__all__ = ["load_arrays"]

_PARTS = ("train", "val", "test")
_CHANNELS = (1, 3)
_NOBODY_KNOWS = 255
_BESIDE = {"labels": "label", "targets": "value, or row of values,", "masks": "mask of the pictures' size"}


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
    if "images" in arrays:
        return _source(file.stem, [_part(file, arrays, "")], None)
    parts = [part for part in _PARTS if f"{part}_images" in arrays]
    if parts[:1] != ["train"]:
        raise InputError(
            f"expected arrays 'images' and 'labels', or 'train_images' and 'train_labels', in '{file}', got "
            f"{', '.join(sorted(arrays)) or 'none'}: save it with np.savez(file, images=..., labels=...)"
        )
    tables = {part: _part(file, arrays, f"{part}_") for part in parts}
    kinds = {kind for kind, _, _ in tables.values()}
    if len(kinds) > 1:
        raise InputError(f"expected the same beside all pictures of '{file}', got {' and '.join(sorted(kinds))}")
    sizes = sorted({tuple(pictures.shape[1:]) for _, pictures, _ in tables.values()})
    if len(sizes) > 1:
        raise InputError(
            f"expected pictures of one shape in '{file}', got {sizes[0]} and {sizes[1]}: resize or convert some"
        )
    widths = {tuple(beside.shape[1:]) for _, _, beside in tables.values()}
    if len(widths) > 1:
        raise InputError(f"expected as many values beside all pictures of '{file}', got {len(widths)} kinds of rows")
    return _source(file.stem, [tables[part] for part in parts if part != "test"], tables.get("test"))


_Part = tuple[str, Tensor, Tensor]
"""``labels``, ``targets``, ``masks`` or ``nothing``; pictures; and what there is beside them."""


def _source(name: str, learn: list[_Part], test: _Part | None) -> Source:
    images, known = torch.cat([part[1] for part in learn]), torch.cat([part[2] for part in learn])
    kind = learn[0][0]
    if kind == "labels":
        return make_source(name, ImageTable(images, known), None if test is None else ImageTable(test[1], test[2]))
    if kind == "targets":
        return make_valued_source(name, images, known, None if test is None else (test[1], test[2]))
    masks = (known, None if test is None else test[2]) if kind == "masks" else None
    return make_bare_source(name, images, None if test is None else test[1], masks=masks)


def _part(file: Path, arrays: Mapping[str, NDArray[Any]], prefix: str) -> _Part:
    pictures = _pictures(file, arrays, f"{prefix}images")
    beside = [kind for kind in _BESIDE if f"{prefix}{kind}" in arrays]
    if len(beside) > 1:
        raise InputError(f"expected one of {', '.join(_BESIDE)} beside pictures of '{file}', got {', '.join(beside)}")
    if not beside and any(not name.endswith("images") for name in arrays):  # a name that was mistyped
        raise InputError(
            f"expected {' or '.join(repr(prefix + kind) for kind in _BESIDE)} beside '{prefix}images' in '{file}', got "
            f"{', '.join(sorted(arrays))}: rename the array"
        )
    if not beside:
        return "nothing", pictures, torch.zeros(len(pictures))
    name = f"{prefix}{beside[0]}"
    found = np.atleast_1d(arrays[name])
    flat = found.reshape(len(found), -1) if len(found) == len(pictures) else found
    if beside[0] == "masks" and found.dtype.kind in "iub" and found.shape == (len(pictures), *pictures.shape[2:]):
        if found.dtype.kind != "b" and not 0 <= int(found.min()) <= int(found.max()) <= _NOBODY_KNOWS:
            raise InputError(
                f"expected classes from 0, and {_NOBODY_KNOWS} where nobody knows, in '{name}' of '{file}', got "
                f"{int(found.min())} to {int(found.max())}"
            )
        return "masks", pictures, torch.from_numpy(found.astype(np.uint8))
    if beside[0] == "targets" and len(found) == len(pictures) and found.ndim <= 2:
        return "targets", pictures, torch.from_numpy(flat.astype(np.float32))
    if beside[0] == "labels" and len(found) == len(pictures) and flat.shape[1] == 1 and found.dtype.kind in "iub":
        return "labels", pictures, torch.from_numpy(flat[:, 0].astype(np.int64))
    raise InputError(
        f"expected one {_BESIDE[beside[0]]} for each of {len(pictures)} pictures in '{name}' of '{file}', got "
        f"{found.shape} in {found.dtype}"
    )


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays, once their headers say that they are plain numbers of a size that the file can hold."""
    try:
        with zipfile.ZipFile(file) as archive:
            found: dict[str, NDArray[Any]] = {}
            needed = sum(member.file_size for member in archive.infolist())
            if needed > (most := memory_bytes()):
                raise InputError(
                    f"expected arrays that fit into the {most / 2**30:.0f} GiB of memory in '{file}', got "
                    f"{needed / 2**30:.0f} GiB of them: use a folder of pictures, which are read as they are needed"
                )
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise InputError(f"expected arrays in '{file}', got the file '{member.filename}': save it anew")
                with archive.open(member) as stream:
                    _check_header(file, member, stream)
                with archive.open(member) as stream:
                    found[member.filename[:-4]] = npy.read_array(stream, allow_pickle=False)
            return found
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:  # encrypted: RuntimeError
        raise InputError(f"expected an .npz file at '{file}', got {error}: save it anew") from error


def _check_header(file: Path, member: zipfile.ZipInfo, stream: Any) -> None:
    version = npy.read_magic(stream)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = reader(stream)
    valued = dtype.kind == "f" and "targets" in member.filename
    if dtype.hasobject or not (valued or dtype.kind in "uib"):
        raise InputError(
            f"expected whole numbers in '{member.filename}' of '{file}', got {dtype}: nothing is unpickled, and "
            "pictures are bytes"
        )
    needed = int(np.prod([int(side) for side in shape], dtype=object)) * dtype.itemsize
    if needed > member.file_size:
        raise InputError(f"expected '{member.filename}' of '{file}' to hold {needed} bytes, got {member.file_size}")


def _pictures(file: Path, arrays: Mapping[str, NDArray[Any]], images: str) -> Tensor:
    pictures = arrays[images]
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or not len(pictures):
        raise InputError(
            f"expected '{images}' of '{file}' as (n, h, w) or (n, h, w, c) in uint8, n of 1 at least, got "
            f"{pictures.shape} in {pictures.dtype}: scale to 0..255 and save it anew"
        )
    return _channels_first(file, images, pictures)


def _channels_first(file: Path, name: str, pictures: NDArray[Any]) -> Tensor:
    if pictures.ndim == 3:
        return torch.from_numpy(np.ascontiguousarray(pictures[:, None]))
    if pictures.shape[3] in _CHANNELS:
        return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    if pictures.shape[1] in _CHANNELS:
        return torch.from_numpy(np.ascontiguousarray(pictures))
    raise InputError(f"expected 1 or 3 channels in '{name}' of '{file}', got shape {pictures.shape}")
