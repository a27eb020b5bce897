"""The passport of a bundle, read and checked."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from splitveil_edge.document import CLOUD, EDGE, FINISH, CodecSpec, FileSeal, NoiseLaw, Passport
from splitveil_edge.errors import MissingFileError, TrustError
from splitveil_edge.parsing import MOST_BYTES, parse_passport
from splitveil_edge.signing import Signature

__all__ = [
    "CLOUD",
    "EDGE",
    "FINISH",
    "PASSPORT",
    "SIGNATURE",
    "CodecSpec",
    "FileSeal",
    "NoiseLaw",
    "Passport",
    "parse_passport",
    "read_passport",
]

PASSPORT, SIGNATURE = "passport.json", "passport.sig"


def read_passport(folder: Path, *, public_key: bytes | None = None, now: datetime | None = None) -> Passport:
    """The passport of a bundle, or of one side of it.

    Args:
        folder: holds ``passport.json``.
        public_key: of who must have signed it, PEM or 32 bytes; None leaves the signature unchecked.
        now: with a time zone; the clock's by default.

    Raises:
        MissingFileError: no such folder, or no passport in it.
        PassportError: it is no passport.
        TrustError: it has expired, is not signed although a key is given, or its signature is another's.
        MissingExtraError: a key is given and cryptography is not installed.
    """
    folder = Path(folder)
    body = _read(folder / PASSPORT, MOST_BYTES)
    seal = Signature.parse(_read(folder / SIGNATURE, MOST_BYTES)) if (folder / SIGNATURE).is_file() else None
    if public_key is not None:
        if seal is None:
            raise TrustError(
                f"expected a signed passport in '{folder}', got no passport.sig: export it again with --key"
            )
        seal.check(body, public_key)
    passport = parse_passport(body, seal)
    passport.check_expiry(now)
    return passport


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise MissingFileError(
            f"expected a bundle with '{file}', got {error.strerror}: make one with  splitveil export"
        ) from error
