"""Folders that are whole or not there: filled beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from splitveil.errors import OutputError
from splitveil.files import beside

__all__ = ["check_new_folder", "write_folder"]


def check_new_folder(out: Path) -> None:
    """Raise `OutputError` unless nothing, or an empty folder, is there."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"expected a new or empty folder at '{out}', got a file: choose another --out")
    if out.is_dir() and (found := sorted(item.name for item in out.iterdir())):
        raise OutputError(
            f"expected a new or empty folder at '{out}', got {', '.join(found[:3])} in it: choose another --out"
        )


def write_folder(out: Path, fill: Callable[[Path], None]) -> Path:
    """Let `fill` write files into a temporary folder beside `out`, flush them to the disk, and rename it.

    Raises:
        OutputError: `out` holds something, or the disk is full or cannot be written; nothing is left behind.
    """
    out = Path(out)
    check_new_folder(out)
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(out)
        temporary.mkdir()
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
        temporary.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write '{out}': {error.strerror or error}; choose another --out") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return out
