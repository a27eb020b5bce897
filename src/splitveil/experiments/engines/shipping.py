"""What travels between machines that share no files: the pictures of a spec, and the files of a run."""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitveil.data.rows import in_memory
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


@dataclass(frozen=True, slots=True)
class Pictures:
    """The splits of a spec as arrays, which processes of one machine can share.

    Args:
        name: of the source.
        class_names: of the source.
        digest: of the splits.
        tables: images, labels and, where there are any, targets, by split.
        edges: of the source.
    """

    name: str
    class_names: tuple[str, ...]
    digest: str
    tables: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[Any] | None]]
    edges: tuple[float, ...] = ()

    @classmethod
    def of(cls, data: LoadedData) -> Pictures:
        """To arrays.

        Raises:
            InputError: pictures that are streamed because they do not fit into memory.
        """
        splits = data.splits
        named = {"train": splits.train, "val": splits.val, "test": splits.test, "aux": splits.aux}
        tables = {
            name: (
                in_memory(table.images).numpy(),
                table.labels.numpy(),
                None if table.targets is None else in_memory(table.targets).numpy(),
            )
            for name, table in named.items()
        }
        return cls(data.source.name, data.source.class_names, splits.digest, tables, data.source.edges)

    def unpack(self) -> LoadedData:
        """Back to tables, without a copy: their memory may be read-only, and nobody writes to pictures.

        The source then holds the pictures that are trained on alone.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
            tables = {
                name: ImageTable(
                    torch.from_numpy(images),
                    torch.from_numpy(labels),
                    None if targets is None else torch.from_numpy(targets),
                )
                for name, (images, labels, targets) in self.tables.items()
            }
        splits = Splits(**tables, digest=self.digest, duplicates=0)
        return LoadedData(Source(self.name, splits.train, None, self.class_names, self.edges), splits)


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
