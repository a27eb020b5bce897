"""The passport as a value: what was trained, audited and exported, sealed by digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from splitveil_edge.errors import MissingFileError, TrustError
from splitveil_edge.signing import Signature

__all__ = ["CLOUD", "EDGE", "FINISH", "SHORT_DIGEST", "CodecSpec", "FileSeal", "Law", "NoiseLaw", "Passport"]

EDGE, FINISH, CLOUD = "edge.onnx", "finish.onnx", "cloud.onnx"

SHORT_DIGEST = 16
"""Hexadecimal digits of a passport's sha256 that name it."""

Law = Literal["standard_normal", "uniform"]


@dataclass(frozen=True, slots=True)
class NoiseLaw:
    """One noise tensor of a release: ``(n, *shape)``, standard normal or uniform in the open interval (0, 1)."""

    name: str
    shape: tuple[int, ...]
    law: Law


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """How a release is framed: ``float32``, or ``quantise`` to ``2^bits`` levels from low to high."""

    name: str
    bits: int = 32
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class FileSeal:
    """Digest and size of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Passport:
    """What a bundle is; see `read_passport`.

    Attributes:
        version: of the splitveil that exported it.
        created: UTC.
        expires: UTC, None for never.
        name: of the model, as servers know it.
        defense: ``{name, params}``.
        input_shape: ``(c, h, w)``.
        class_names: in the order of the output's values.
        feature: spec of z, as of ``FeatureSpec.to_json``.
        release: spec of r.
        reply_shape: of one reply of the cloud.
        output_shape: of one output of the edge.
        noise: of one release, in the order of the graph's inputs.
        codec: of the wire.
        precision: of the weights, by side.
        files: by name.
        certificates: the card of the run, or None.
        audit: a summary of the audit, or None.
        data: ``{digest}`` of the pictures and splits.
        parity: what export measured.
        release_range: values beyond it are no release of this edge; None where nothing is declared.
        body: the bytes that it was read from.
        signature: as it lay beside it; unchecked unless a key was given.
    """

    version: str
    created: datetime
    expires: datetime | None
    name: str
    defense: Mapping[str, Any]
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    feature: Mapping[str, Any]
    release: Mapping[str, Any]
    reply_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    noise: tuple[NoiseLaw, ...]
    codec: CodecSpec
    precision: Mapping[str, str]
    files: Mapping[str, FileSeal]
    certificates: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    data: Mapping[str, Any]
    parity: Mapping[str, Any]
    release_range: tuple[float, float] | None
    body: bytes = field(repr=False)
    signature: Signature | None = None

    @property
    def digest(self) -> str:
        """sha256 of the very bytes, hex: what edge and server must agree on."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def short_digest(self) -> str:
        """The first digits of the digest, by which requests and messages name the passport."""
        return self.digest[:SHORT_DIGEST]

    def is_named(self, claimed: object) -> bool:
        """Whether what somebody claims is the digest, or its first 16 digits or more."""
        return isinstance(claimed, str) and len(claimed) >= SHORT_DIGEST and self.digest.startswith(claimed)

    @property
    def release_shape(self) -> tuple[int, ...]:
        """Of one r."""
        return tuple(self.release["shape"])

    @property
    def release_nats(self) -> float | None:
        """The most that one release can tell of its picture, nats: the least certificate on the card, or None.

        What was computed from features of test pictures was computed from the head in fp32, and counts for that alone.
        """
        statements = (self.certificates or {}).get("statements", ())
        exact = self.precision["edge"] == "fp32"
        values = [
            float(item["value"])
            for item in (statements if isinstance(statements, list) else ())
            if _bounds_one_release(item) and (exact or item.get("n") is None)
        ]
        return min(values, default=None)

    def check_files(self, folder: Path, names: Iterable[str]) -> None:
        """Hold files of a bundle against their digests and sizes; external data of a graph is checked with it.

        Args:
            folder: of the bundle, or of one side of it.
            names: of files, as `EDGE`.

        Raises:
            TrustError: one is not what the passport says, or not in it.
            MissingFileError: one is not there.
        """
        wanted = list(names)
        wanted += [f"{name}.data" for name in wanted if f"{name}.data" in self.files]
        for name in wanted:
            seal = self.files.get(name)
            if seal is None:
                raise TrustError(f"expected '{name}' in the passport of '{folder}', got none: export the bundle again")
            digest, size = _digest(Path(folder) / name, seal.size)
            if (digest, size) != (seal.sha256, seal.size):
                raise TrustError(
                    f"expected '{Path(folder) / name}' of sha256 {seal.sha256[:16]}… and {seal.size} bytes, as its "
                    f"passport says, got {_said(digest, size)}: the file was changed or swapped; get the bundle again"
                )

    def check_expiry(self, now: datetime | None = None) -> None:
        """Raise `TrustError` if the passport has expired.

        Args:
            now: with a time zone; the clock's by default.
        """
        now = now or datetime.now(UTC)
        if self.expires is not None and now >= self.expires:
            raise TrustError(
                f"expected a passport that is valid at {now:%Y-%m-%d %H:%M} UTC, got one that expired at "
                f"{self.expires:%Y-%m-%d %H:%M} UTC: audit and export the run again"
            )


def _bounds_one_release(item: Any) -> bool:
    facts = {"kind": "certificate", "quantity": "information", "relation": "<=", "unit": "nats", "observations": 1}
    if not isinstance(item, dict) or any(item.get(key) != value for key, value in facts.items()):
        return False
    return type(item.get("value")) in (int, float) and item["value"] >= 0


def _digest(file: Path, size: int) -> tuple[str | None, int]:
    """Digest and size; no digest where the size is wrong already, since nobody says how long the file is."""
    try:
        found = file.stat().st_size
        if found != size:
            return None, found
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest(), found
    except OSError as error:
        raise MissingFileError(f"expected the file '{file}', got {error.strerror}: get the bundle again") from error


def _said(digest: str | None, size: int) -> str:
    return f"{size} bytes" if digest is None else f"sha256 {digest[:16]}…"
