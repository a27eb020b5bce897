"""What travels between machines that share no files: the pictures of a spec, and the files of a run."""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.data.splits import Splits
from splitveil.data.tables import ImageTable, Source
from splitveil.errors import InputError, OutputError
from splitveil.experiments.training import LoadedData
from splitveil.files import write_bytes, write_text

__all__ = ["MOST_BYTES", "Files", "Parcel", "Pictures", "Token", "check_files", "marked", "pack", "store"]

MOST_BYTES = 2 * 2**30
_MOST_FILES = 4096
_PARTS = 3
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,200}")
_SUFFIXES = (".json", ".jsonl", ".safetensors")
_FIRST, _LATE = "spec.json", ".json"

Files = Mapping[str, bytes]
"""Contents by the path below the folder of a run, with slashes."""


_SPLITS = ("train", "val", "test", "aux")


@dataclass(frozen=True, slots=True)
class Pictures:
    """The splits of a spec as arrays, which processes of one machine can share.

    Args:
        source: fields of the source but for its tables.
        splits: fields of the splits but for theirs.
        tables: arrays of each split by field.
    """

    source: dict[str, Any]
    splits: dict[str, Any]
    tables: dict[str, dict[str, NDArray[Any]]]

    @classmethod
    def of(cls, data: LoadedData) -> Pictures | None:
        """To arrays; None where pictures are read from a file as they are needed, which is then for workers to do."""
        tables = {name: _arrays(getattr(data.splits, name)) for name in _SPLITS}
        held = {name: arrays for name, arrays in tables.items() if arrays is not None}
        if len(held) < len(tables):
            return None
        return cls(_plain(data.source, ("train", "test")), _plain(data.splits, _SPLITS), held)

    def unpack(self) -> LoadedData:
        """Back to tables, without a copy: their memory may be read-only, and nobody writes to pictures.

        The source then holds the pictures that are trained on alone.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
            tables: dict[str, Any] = {
                name: ImageTable(**{key: torch.from_numpy(array) for key, array in arrays.items()})
                for name, arrays in self.tables.items()
            }
        splits = Splits(**tables, **self.splits)
        return LoadedData(Source(train=splits.train, test=None, **self.source), splits)


def _plain(record: Any, tables: Sequence[str]) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record) if field.name not in tables}


def _arrays(table: Any) -> dict[str, NDArray[Any]] | None:
    """What a table holds, or None where some of it is no tensor in memory."""
    held = {field.name: getattr(table, field.name) for field in fields(table)}
    given = {name: value for name, value in held.items() if value is not None}
    if not all(isinstance(value, Tensor) for value in given.values()):
        return None
    return {name: value.numpy() for name, value in given.items()}


@dataclass(frozen=True, slots=True)
class Parcel:
    """The files of a job's folder, and of the one beside it."""

    folder: Files
    beside: Files | None


def pack(folder: Path) -> dict[str, bytes]:
    """All files of a run.

    Raises:
        InputError: they are too many or too large to be sent.
    """
    if not folder.is_dir():
        return {}
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    check_files(sizes)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def check_files(sizes: Mapping[str, int]) -> None:
    """Names and sizes of files, before any of them is written.

    Raises:
        InputError: a name that no run has, too many files, or too large ones.

    Example:
        >>> check_files({"samples/decoder-1.safetensors": 10, "spec.json": 10})
    """
    for name in sizes:
        parts = name.split("/")
        if len(parts) > _PARTS or not all(map(_PART.fullmatch, parts)) or not name.endswith(_SUFFIXES):
            raise InputError(
                f"expected the files of a run, {', '.join(_SUFFIXES)} at most {_PARTS - 1} folders deep, got "
                f"'{name[:200]}': move it away"
            )
    if len(sizes) > _MOST_FILES or sum(sizes.values()) > MOST_BYTES:
        raise InputError(
            f"expected at most {_MOST_FILES} files of {MOST_BYTES >> 20} MiB together, got {len(sizes)} of "
            f"{sum(sizes.values()) >> 20} MiB: put --out on storage that all machines share"
        )


def store(folder: Path, files: Files, removed: Iterable[str] = ()) -> None:
    """Write what came back, the spec first and the records that call a run finished last.

    Args:
        folder: of the run.
        files: contents by name, from outside: their names and sizes are checked before the first is written.
        removed: names of files that are gone.

    Raises:
        InputError: see `check_files`.
        OutputError: a folder of theirs leads elsewhere, or cannot be written.
    """
    check_files({name: len(content) for name, content in files.items()} | dict.fromkeys(removed, 0))
    home = folder.resolve()
    for name in (*files, *removed):
        if not (folder / name).resolve().is_relative_to(home):
            raise OutputError(f"expected '{folder / name}' within its run, got a link out of it: remove the link")
    for name in sorted(files, key=lambda name: (name != _FIRST, name.endswith(_LATE), name)):
        write_bytes(folder / name, files[name])
    for name in removed:
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Token:
    """A hidden file beside the folders of runs: who finds it there shares their storage."""

    name: str
    text: str

    @classmethod
    def fresh(cls) -> Token:
        """One that nobody else has."""
        return cls(f".shared-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex)

    def write(self, parent: Path) -> None:
        """Lay it down."""
        write_text(parent / self.name, self.text)

    def lies_in(self, parent: Path) -> bool:
        """Whether it is there, with its own text."""
        try:
            return (parent / self.name).read_text() == self.text
        except (OSError, UnicodeDecodeError):
            return False


@contextmanager
def marked(parents: Iterable[Path]) -> Iterator[Token]:
    """Lay a token into these folders for a while."""
    token, places = Token.fresh(), set(parents)
    try:
        for parent in places:
            token.write(parent)
        yield token
    finally:
        for parent in places:
            (parent / token.name).unlink(missing_ok=True)
