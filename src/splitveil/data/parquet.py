"""Parquet image tables in the layout of the hub: a column `image` of {bytes, path} and a column `label`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet
import pyarrow.types as types
import torch
from numpy.typing import NDArray
from pyarrow.lib import ArrowException

from splitveil.data.cache import fingerprint
from splitveil.data.folder import check_inside
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source, check_labels, existing_path, make_source
from splitveil.data.targets import make_valued_source
from splitveil.errors import InputError, MissingDataError, SpecError

__all__ = ["count_rows", "load_parquet", "parquet_files", "parquet_pictures"]

_ROWS_PER_BATCH = 256
_UNREADABLE = (ArrowException, OSError, UnicodeDecodeError)  # damaged names and paths are not UTF-8
_ParquetFile: Any = pyarrow.parquet.ParquetFile  # pyarrow carries no types


@dataclass(frozen=True, slots=True)
class _Shard:
    file: Path
    labels: NDArray[np.int64] | NDArray[np.float32]
    class_names: tuple[str, ...] | None


def load_parquet(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """A folder of parquet files, or one file, as a source.

    Files named ``test*`` (or in a folder of such a name) are the test table; all others the train table, those named
    ``val*`` at its end. One file alone is one table, whatever its name. Class names come from the hub's metadata.

    Args:
        path: the folder or the file.
        reading: how.

    Raises:
        MissingDataError: nothing is there.
        SpecError: a column is missing or has another type.
        InputError: a file, a row or a label is not what it should be.
    """
    path = existing_path(path, "parquet")
    files = parquet_files(path)
    if not files:
        raise MissingDataError(f"expected *.parquet in '{path}', got none: check the path")
    roles = {file: "train" if path.is_file() else _role(file.relative_to(path)) for file in files}
    shards = {
        role: [_read_labels(file) for file in files if roles[file] == role] for role in ("train", "validation", "test")
    }
    learn, test = shards["train"] + shards["validation"], shards["test"]
    if not learn:
        raise MissingDataError(
            f"expected a train file in '{path}', got only {', '.join(file.name for file in files)}: "
            "add one, or pass the path of the file itself to have it split"
        )
    class_names = _common_names([*learn, *test])
    labels = torch.from_numpy(np.concatenate([shard.labels for shard in [*learn, *test]]))
    learn_rows = sum(len(shard.labels) for shard in learn)
    valued = labels.is_floating_point()
    if not valued:  # before the pictures are decoded, which takes long
        check_labels(labels[:learn_rows], class_names)
    shards_read = [*learn, *test]
    pictures = parquet_pictures([shard.file for shard in shards_read])
    gathered = gather_pictures(pictures, len(labels), reading, lambda: fingerprint(shard.file for shard in shards_read))
    if valued:
        first, second = gathered.parts(learn_rows, bool(test))
        values = labels[gathered.kept, None].float()
        other = None if second is None else (second, values[len(first) :])
        return make_valued_source(path.resolve().name, first, values[: len(first)], other, skipped=gathered.skipped)
    table, test_table = gathered.tables(labels, learn_rows)
    return make_source(path.resolve().name, table, test_table, class_names, skipped=gathered.skipped)


def parquet_files(path: Path) -> list[Path]:
    """The parquet files at, in, or one level below this path, by name; hidden ones are left out.

    Raises:
        InputError: a link that leaves the folder.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".parquet" else []
    found = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
    shown = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    home = _home(path)
    for item in sorted({*shown, *(file.parent for file in shown if file.parent != path)}):
        check_inside(item, home)
    return sorted(file for file in shown if file.is_file())


def _home(path: Path) -> Path:
    """The folder that links may not leave: in the hub's cache, files of a snapshot are links to blobs beside it."""
    above = next((parent for parent in path.absolute().parents if parent.name == "snapshots"), None)
    return path if above is None or not (above.parent / "blobs").is_dir() else above.parent


def _role(file: Path) -> str:
    for part in reversed(file.parts):
        for prefix, role in (("test", "test"), ("val", "validation"), ("train", "train")):
            if part.lower().startswith(prefix):
                return role
    return "train"


def _read_labels(file: Path) -> _Shard:
    try:
        with _ParquetFile(file) as table:
            schema = table.schema_arrow
            _check_columns(schema, file)
            column = table.read(columns=["label"]).column("label")
    except _UNREADABLE as error:
        raise InputError(f"expected a parquet file in '{file}', got {error}: restore or remove it") from error
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"expected a label in each row of '{file}', got none in row {row}: remove the row")
    valued = types.is_floating(schema.field("label").type)
    return _Shard(file, column.to_numpy().astype(np.float32 if valued else np.int64), _hub_names(schema))


def _check_columns(schema: Any, file: Path) -> None:
    _check_image(schema, file)
    _check_present("label", schema, file)
    label = schema.field("label").type
    if not (types.is_integer(label) or types.is_floating(label)):
        raise SpecError(
            f"expected whole numbers in the column label of '{file}', got {label}: number the classes from 0, or give "
            "values with a point to learn these"
        )


def _check_image(schema: Any, file: Path) -> None:
    _check_present("image", schema, file)
    image = schema.field("image").type
    content = image.field("bytes").type if types.is_struct(image) and image.get_field_index("bytes") >= 0 else None
    if content is None or not (types.is_binary(content) or types.is_large_binary(content)):
        raise SpecError(
            f"expected the column image of '{file}' as struct<bytes: binary, path: string>, got {image}: "
            "write it as the hub's image data sets do"
        )


def _check_present(name: str, schema: Any, file: Path) -> None:
    if name in schema.names:
        return
    near = get_close_matches(name, schema.names, n=1, cutoff=0.5)
    hint = f": did you mean '{near[0]}'? Rename it to '{name}'" if near else f": add '{name}' to the table"
    raise SpecError(f"expected the columns image and label in '{file}', got {', '.join(schema.names)}{hint}")


def _hub_names(schema: Any) -> tuple[str, ...] | None:
    """The names in ``info.features.label.names`` of the hub's metadata, or None; the rest of it is not read."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) and names else None


def _common_names(shards: list[_Shard]) -> tuple[str, ...] | None:
    named = [shard for shard in shards if shard.class_names is not None]
    for shard in named[1:]:
        if shard.class_names != named[0].class_names:
            raise InputError(
                f"expected the same class names in all files, got others in '{shard.file}' than in "
                f"'{named[0].file}': the labels may not mean the same; load the two apart"
            )
    return named[0].class_names if named else None


def count_rows(file: Path) -> int:
    """How many pictures a file has; labels are not asked for.

    Raises:
        InputError: not a parquet file.
        SpecError: no column of pictures.
    """
    try:
        with _ParquetFile(file) as table:
            _check_image(table.schema_arrow, file)
            return int(table.metadata.num_rows)
    except _UNREADABLE as error:
        raise InputError(f"expected a parquet file in '{file}', got {error}: restore or remove it") from error


def parquet_pictures(files: list[Path]) -> Iterator[Picture]:
    """The pictures of all rows of all files, in order."""
    for file in files:
        for row, (content, inner) in enumerate(_rows(file)):
            name = f"'{file}', row {row} ({inner!r})"
            yield name, partial(_content, content, name)


def _content(content: bytes | None, name: str) -> BinaryIO:
    if content is None:
        raise InputError(f"expected the bytes of a picture in {name}, got none: embed the pictures, or drop the row")
    return BytesIO(content)


def _rows(file: Path) -> Iterator[tuple[bytes | None, str | None]]:
    try:
        with _ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=["image"]):
                for cell in batch.column("image").to_pylist():
                    yield ((cell or {}).get("bytes"), (cell or {}).get("path"))
    except _UNREADABLE as error:
        raise InputError(f"expected a parquet file in '{file}', got {error}: restore or remove it") from error
