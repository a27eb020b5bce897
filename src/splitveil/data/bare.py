"""Pictures without labels: a folder of any depth, or parquet files of which the column `image` alone is read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

from splitveil.data.cache import fingerprint
from splitveil.data.folder import picture_files
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture
from splitveil.data.parquet import count_rows, parquet_files, parquet_pictures
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source, existing_path
from splitveil.data.targets import make_bare_source
from splitveil.errors import MissingDataError

__all__ = ["load_bare"]


def load_bare(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """All pictures below a folder as a source without labels, to be learned from by distillation.

    Args:
        path: a folder of pictures, or of parquet files, or one such file.
        reading: how.

    Raises:
        MissingDataError: nothing is there.
        InputError: a file that is no picture, a link out of the folder.
    """
    root = existing_path(path, "unlabeled")
    tables = parquet_files(root)
    if tables:
        counts = [count_rows(file) for file in tables]
        gathered = gather_pictures(parquet_pictures(tables), sum(counts), reading, lambda: fingerprint(tables))
    else:
        files = picture_files(root)
        if not files:
            raise MissingDataError(f"expected pictures in '{root}', got none: check the path")
        pictures: list[Picture] = [(f"'{file}'", partial(_open, file)) for file in files]
        gathered = gather_pictures(pictures, len(files), reading, lambda: fingerprint(files))
    return make_bare_source(root.resolve().name, gathered.images, skipped=gathered.skipped)


def _open(file: Path) -> BinaryIO:
    return file.open("rb")
