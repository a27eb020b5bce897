"""Files of keys."""

from __future__ import annotations

import os
from pathlib import Path

from splitveil.errors import OutputError
from splitveil.files import write_bytes
from splitveil_edge.signing import make_key

__all__ = ["write_keys"]


def write_keys(file: Path) -> tuple[Path, Path]:
    """A fresh pair of Ed25519 keys as PEM: the private one readable by its owner alone.

    Args:
        file: of the private key; the public one lies beside it as ``.pub.pem``.

    Returns:
        Both files.

    Raises:
        OutputError: one of them is there already, is a folder, or cannot be written.
        MissingExtraError: cryptography is not installed.
    """
    file = Path(file)
    if file.is_dir():
        raise OutputError(f"expected a file for the private key, got the folder '{file}': name a file, such as key.pem")
    public_file = file.with_name(f"{file.name.removesuffix('.pem')}.pub.pem")
    for taken in (file, public_file):
        if taken.exists():
            raise OutputError(
                f"expected no file at '{taken}', got one: keys are never overwritten, choose another name"
            )
    private, public = make_key()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(private)
    except OSError as error:
        raise OutputError(f"cannot write '{file}': {error.strerror}; choose another name") from error
    write_bytes(public_file, public)
    return file, public_file
