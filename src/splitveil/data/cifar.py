"""CIFAR-10 and CIFAR-100 in their published binary layout: no pickle is read.

``cifar-10-binary.tar.gz`` and ``cifar-100-binary.tar.gz``, unpacked: a label byte (CIFAR-100: a coarse one before it),
then 3,072 bytes of a picture, channel by channel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from splitveil.data.tables import ImageTable, Source, existing_path, join_tables, make_source
from splitveil.errors import InputError, MissingDataError

__all__ = ["cifar_layout", "load_cifar"]

_PICTURE = 3 * 32 * 32
_TEN = ([f"data_batch_{number}.bin" for number in range(1, 6)], "test_batch.bin", "batches.meta.txt", 1)
_HUNDRED = (["train.bin"], "test.bin", "fine_label_names.txt", 2)


def cifar_layout(path: Path) -> bool:
    """Whether a folder holds CIFAR's binary files."""
    return path.is_dir() and any((path / layout[1]).is_file() for layout in (_TEN, _HUNDRED))


def load_cifar(path: Path | None) -> Source:
    """A folder of CIFAR's binary files as a source, with its own test table.

    Args:
        path: the folder.

    Raises:
        MissingDataError: a file of the layout is missing.
        InputError: a file of another length.
    """
    root = existing_path(path, "cifar")
    if not root.is_dir():
        raise InputError(f"expected the folder of CIFAR's binary files at '{root}', got a file: unpack the archive")
    learn, test, names, labels = _TEN if (root / _TEN[1]).is_file() else _HUNDRED
    missing = [name for name in (*learn, test) if not (root / name).is_file()]
    if missing:
        raise MissingDataError(
            f"expected {missing[0]} in '{root}', got none: unpack cifar-10-binary.tar.gz, or that of CIFAR-100, there"
        )
    tables = [_read(root / name, labels) for name in learn]
    joined = join_tables(tables)
    return make_source(root.name, joined, _read(root / test, labels), _names(root / names))


def _read(file: Path, labels: int) -> ImageTable:
    row = labels + _PICTURE
    data = np.fromfile(file, dtype=np.uint8)
    if len(data) == 0 or len(data) % row:
        raise InputError(f"expected rows of {row} bytes in '{file}', got {len(data)} bytes: unpack the archive again")
    rows = torch.from_numpy(data.reshape(-1, row))
    return ImageTable(rows[:, labels:].reshape(-1, 3, 32, 32).contiguous(), rows[:, labels - 1].long())


def _names(file: Path) -> list[str] | None:
    """One class name per line, where the file is there."""
    if not file.is_file():
        return None
    return [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
