"""From what a user writes to a source: a built-in name, a parquet table, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from splitveil.data.cifar import cifar_layout
from splitveil.data.facescrub import facescrub_layout
from splitveil.data.folder import class_folders
from splitveil.data.parquet import parquet_files
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source
from splitveil.data.tiny_imagenet import tiny_imagenet_layout
from splitveil.errors import ContractError, InputError, MissingDataError, SpecError, UsageError
from splitveil.registry import SOURCES

__all__ = ["guess_source", "load_source"]


def load_source(source: str, path: Path | None = None, reading: Reading = PLAIN) -> Source:
    """Load by registered name; what else is wrong, the loader says.

    A loader is called with the path, and with ``reading`` or ``progress`` if it names them.

    Raises:
        UnknownNameError: no source of that name.
        ContractError: a third-party loader returned something else.

    Example:
        >>> load_source("digits").classes
        10
    """
    loader = SOURCES.load(source)
    try:
        loaded = loader(path, **_options(loader, source, reading))
    except OSError as error:
        raise InputError(f"cannot read the pictures of '{source}' at '{path}': {error.strerror or error}") from error
    if not isinstance(loaded, Source):
        raise ContractError(
            f"expected a Source from the loader of '{source}', got {type(loaded).__name__}: build it with make_source"
        )
    return loaded


def _options(loader: Callable[..., Any], source: str, reading: Reading) -> dict[str, Any]:
    known = signature(loader).parameters
    if "reading" in known:
        return {"reading": reading}
    for name in ("stream", "skip_corrupt", "size"):
        if getattr(reading, name):
            raise SpecError(f"source '{source}' reads its pictures as they are, got {name}: leave it out")
    return {"progress": reading.progress} if "progress" in known else {}


def guess_source(data: str) -> tuple[str, Path | None]:
    """The source's name and path that a user means. A registered name comes first; write ``./name`` for a folder.

    ``NAME:PATH`` names the source too: ``hub:user/name``, ``unlabeled:folder``.

    Raises:
        UsageError: an empty text.
        MissingDataError: nothing is there, or an empty folder.
        InputError: a file or a folder that is neither.

    Example:
        >>> guess_source("digits")
        ('digits', None)
    """
    if not data.strip():
        raise UsageError("expected a data source or the path of pictures, got an empty text")
    if data in SOURCES:
        return data, None
    name, colon, rest = data.partition(":")
    if colon and rest and name in SOURCES:
        return name, Path(rest)
    path = Path(data).expanduser()
    if not path.exists():
        near = get_close_matches(data, [entry.name for entry in SOURCES], n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"built in: {', '.join(entry.name for entry in SOURCES)}"
        raise MissingDataError(
            f"expected a data source or the path of pictures, got '{data}', and it is not there: {hint}"
        )
    if parquet_files(path):
        return "parquet", path
    if path.suffix == ".npz":
        return "npz", path
    if cifar_layout(path):
        return "cifar", path
    if tiny_imagenet_layout(path):
        return "tiny_imagenet", path
    if facescrub_layout(path):
        return "facescrub", path
    if not path.is_dir():
        raise InputError(
            f"expected a *.parquet or *.npz file, or a folder, got the file '{path}': pass the folder that holds it"
        )
    if class_folders(path):
        return "folder", path
    if any(path.iterdir()):
        raise InputError(
            f"expected *.parquet files or one sub-folder of pictures per class in '{path}', got neither: "
            f"sort the pictures into a folder per class, or write unlabeled:{data} to distil from them"
        )
    raise MissingDataError(f"expected pictures in the folder '{path}', got an empty one: check the path")
