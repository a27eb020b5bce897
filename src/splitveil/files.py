"""Files that are whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from splitveil.errors import OutputError

__all__ = ["beside", "check_room", "others", "write_bytes", "write_text", "write_with"]

_SHOWN = 3  # names of files in an error
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it.

    Raises:
        OutputError: the disk is full, or the folder cannot be written; what was at `path` is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(path)
        temporary.touch(exist_ok=False)
        rights = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        temporary.chmod(rights)  # what safetensors puts in its place is the owner's alone
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if _is_disk_error(error, path):
            raise OutputError(f"cannot write '{path}': {_reason(error)}; {_cure(error)}") from error
        raise


def beside(path: Path) -> Path:
    """A hidden name next to `path` that nobody else has; what is made there has the rights that the umask leaves."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _is_disk_error(error: BaseException, path: Path) -> bool:
    # safetensors reports a full disk as an error of its own that only carries the text of the operating system
    if not isinstance(error, OSError):
        return "os error" in str(error).lower()
    if not isinstance(error.filename, str):
        return True
    # an input that `write` misses is no fault of the output
    named = Path(error.filename)
    return named == path or named in path.parents or named.name.startswith(f".{path.name}.")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if "os error 28" in str(error).lower():
        return "the disk is full"
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


def _cure(error: BaseException) -> str:
    full = (isinstance(error, OSError) and error.errno in _NO_ROOM) or not isinstance(error, OSError)
    return "free some space or choose another --out" if full else "choose another --out"


def others(folder: Path, first: str) -> list[str]:
    """Names in a folder, but for what a kill within the first write, of this file, has left; sorted.

    None where there is no folder.
    """
    if not folder.is_dir():
        return []
    return sorted(item.name for item in folder.iterdir() if not item.name.startswith(f".{first}."))


def check_room(out: Path, what: str, strange: Sequence[str]) -> None:
    """Raise `OutputError` where a folder for something is to be and a file is, or other files are in it.

    Args:
        out: the folder.
        what: it is for, such as an audit.
        strange: names in it that are of nothing of the kind.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder for the {what} at '{out}', got a file: choose another --out")
    if strange:
        more = ", …" if len(strange) > _SHOWN else ""
        raise OutputError(
            f"expected an empty or new folder, or an earlier {what}, at '{out}', got other files "
            f"({', '.join(strange[:_SHOWN])}{more}): choose another --out"
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes whole or not at all."""
    write_with(path, lambda temporary: _put(temporary, data))


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all, as UTF-8."""
    write_bytes(path, text.encode())


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
