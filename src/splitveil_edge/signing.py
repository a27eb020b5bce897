"""Ed25519 signatures over passports."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splitveil_edge.errors import InputError, MissingExtraError, MissingFileError, PassportError, TrustError
from splitveil_edge.reading import Fields, dump_json, parse_json

__all__ = ["Signature", "make_key", "parse_public_key", "read_key_file", "sign"]

_MOST_BYTES = 4096
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64


@dataclass(frozen=True, slots=True)
class Signature:
    """``passport.sig``.

    Args:
        public_key: 32 bytes; says who claims to have signed, and proves nothing until it is known from elsewhere.
        signature: 64 bytes of Ed25519 over the bytes of the passport.
    """

    public_key: bytes
    signature: bytes

    def to_json(self) -> dict[str, str]:
        """Plain data, as it is written."""
        return {
            "algorithm": "ed25519",
            "public_key": base64.b64encode(self.public_key).decode(),
            "signature": base64.b64encode(self.signature).decode(),
        }

    def to_bytes(self) -> bytes:
        """What ``passport.sig`` holds."""
        return dump_json(self.to_json())

    @classmethod
    def parse(cls, body: bytes) -> Signature:
        """The inverse of `to_bytes`.

        Raises:
            PassportError: it is something else.
        """
        fields = Fields(parse_json(body, "passport.sig", _MOST_BYTES), "passport.sig")
        fields.choice("algorithm", ["ed25519"])
        key, signature = _raw(fields, "public_key", _KEY_BYTES), _raw(fields, "signature", _SIGNATURE_BYTES)
        fields.done()
        return cls(key, signature)

    def check(self, body: bytes, public_key: bytes) -> None:
        """Raise `TrustError` unless this is the signature of `body` by the owner of `public_key`.

        Args:
            body: of the passport.
            public_key: PEM, or 32 bytes.
        """
        trusted = parse_public_key(public_key)
        if self.public_key != trusted:
            raise TrustError(
                f"expected a passport signed with the key {trusted.hex()[:16]}…, got one signed with "
                f"{self.public_key.hex()[:16]}…: pass the key of who made the bundle, or do not use it"
            )
        ed25519, invalid = _library("ed25519"), import_module("cryptography.exceptions").InvalidSignature
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(trusted).verify(self.signature, body)
        except invalid as error:
            raise TrustError(
                "expected the signature of these very bytes in passport.sig, got another: the passport was changed "
                "after it was signed; get the bundle again"
            ) from error


def sign(body: bytes, private_key: bytes) -> Signature:
    """Sign a passport.

    Args:
        body: of the passport.
        private_key: PEM, without a password.

    Raises:
        InputError: it is no Ed25519 key.
        MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = _library("serialization"), _library("ed25519")
    try:
        key = serialization.load_pem_private_key(private_key, password=None)
    except Exception as error:  # cryptography raises ValueError, TypeError and errors of its own
        raise InputError(
            "expected a private key as PEM without a password, got something else: make one with  "
            "splitveil bundle keygen"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"expected an Ed25519 key, got {type(key).__name__}: make one with  splitveil bundle keygen")
    return Signature(key.public_key().public_bytes_raw(), key.sign(body))


def make_key() -> tuple[bytes, bytes]:
    """A fresh pair, private and public, as PEM.

    Raises:
        MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = _library("serialization"), _library("ed25519")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def parse_public_key(key: bytes) -> bytes:
    """The 32 bytes of a public key that is given as PEM, or as they are.

    Raises:
        InputError: it is no Ed25519 key.
        MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = _library("serialization"), _library("ed25519")
    if len(key) == _KEY_BYTES:
        return key
    try:
        found = serialization.load_pem_public_key(key)
    except Exception as error:  # cryptography raises ValueError and errors of its own
        raise InputError(
            "expected a public key as PEM or 32 bytes, got something else: pass the .pub.pem file of  "
            "splitveil bundle keygen"
        ) from error
    if not isinstance(found, ed25519.Ed25519PublicKey):
        raise InputError(f"expected an Ed25519 key, got {type(found).__name__}: pass the one that signed the bundle")
    raw: bytes = found.public_bytes_raw()
    return raw


def read_key_file(path: Path) -> bytes:
    """The bytes of a key file.

    Raises:
        MissingFileError: there is none.
        InputError: it is far too long for a key.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MissingFileError(
            f"expected a key at '{path}', got {error.strerror}: make one with  splitveil bundle keygen"
        ) from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"expected a key of at most {_MOST_BYTES} bytes at '{path}', got more: choose another file")
    return data


def _raw(fields: Fields, key: str, size: int) -> bytes:
    text = fields.text(key, 2 * size)
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError as error:  # text beyond ASCII is no binascii.Error
        raise fields.fault(key, "base64", text) from error
    if len(value) != size:
        raise PassportError(f"expected {size} bytes at {fields.where}.{key}, got {len(value)}: sign the bundle again")
    return value


def _library(name: str) -> Any:
    if find_spec("cryptography") is None:
        raise MissingExtraError("cryptography", "sign", "signing and checking signatures")
    base = "cryptography.hazmat.primitives."
    return import_module(base + ("asymmetric.ed25519" if name == "ed25519" else name))
