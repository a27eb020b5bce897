"""Decoded pictures in a folder of this machine: made once, whole or not at all, and safe to delete at any time.

```
$SPLITVEIL_CACHE, or ~/.cache/splitveil
├── pictures/<key>/     key: of the files that were decoded (names, sizes, times of change) and of how
│   ├── rows            n pictures, c·h·w bytes each
│   └── table.json      shape, which pictures decoded, which did not
└── priors/             see splitveil.attacks.learned_once
```
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from splitveil.errors import OutputError

__all__ = ["build_entry", "cache_folder", "check_room", "fingerprint"]

_FORMAT = 1
_TABLE = "table.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder(kind: str = "pictures") -> Path:
    """Where things of a kind are kept: decoded pictures, or ``priors``."""
    chosen = os.environ.get("SPLITVEIL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(chosen) if chosen else Path(base) / "splitveil").expanduser() / kind


def fingerprint(files: Iterable[Path]) -> str:
    """A key that changes with the files, as far as their names, sizes and times of change tell.

    Example:
        >>> len(fingerprint([Path(__file__)]))
        32
    """
    seal = hashlib.sha256(f"format {_FORMAT}".encode())
    for file in files:
        facts = file.stat()
        seal.update(json.dumps([str(file.absolute()), facts.st_size, facts.st_mtime_ns]).encode())
    return seal.hexdigest()[:32]


def build_entry(key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of a key and the facts of its table; what is not there is built, by one process at a time.

    Args:
        key: of the entry.
        build: fills an empty folder and returns facts; if it fails, nothing is kept.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    folder = cache_folder() / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{key}.lock")):
            if not (folder / _TABLE).is_file():
                _build(folder, build)
            facts: dict[str, Any] = json.loads((folder / _TABLE).read_text())
            return folder, facts
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(folder.parent)):
            raise
        what = "the disk is full" if error.errno in _NO_ROOM else error.strerror or str(error)
        raise OutputError(
            f"cannot keep decoded pictures in '{folder.parent}': {what}; free some space, or set SPLITVEIL_CACHE to "
            "another folder"
        ) from error


def _build(folder: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for left in (unfinished, folder):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir()
    try:
        facts = build(unfinished)
        (unfinished / _TABLE).write_text(json.dumps(facts))
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_room(needed: int) -> None:
    """Raise `OutputError` unless the disk of the cache has room for so many bytes."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"expected {needed / 2**30:.1f} GiB of free space in '{folder}' for the decoded pictures, got "
            f"{free / 2**30:.1f} GiB: free some, or set SPLITVEIL_CACHE to a folder on another disk"
        )
