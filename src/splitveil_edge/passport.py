"""The passport of a bundle: what was trained, audited and exported, sealed by digests."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from splitveil_edge.errors import MissingFileError, PassportError, TrustError
from splitveil_edge.reading import Fields, parse_json
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

EDGE, FINISH, CLOUD = "edge.onnx", "finish.onnx", "cloud.onnx"
PASSPORT, SIGNATURE = "passport.json", "passport.sig"

_MOST_BYTES = 4 * 2**20
_MOST_CLASSES = 100_000
_MOST_NOISES = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILES = tuple(name + tail for name in (EDGE, FINISH, CLOUD) for tail in ("", ".data"))
_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class NoiseLaw:
    """One noise tensor of a release: ``(n, *shape)``, standard normal or uniform in the open interval (0, 1)."""

    name: str
    shape: tuple[int, ...]
    law: str


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
    def release_shape(self) -> tuple[int, ...]:
        """Of one r."""
        return tuple(self.release["shape"])

    @property
    def release_nats(self) -> float | None:
        """The most that one release can tell of its picture, nats: the least certificate on the card, or None."""
        statements = (self.certificates or {}).get("statements", ())
        values = [float(item["value"]) for item in statements if _bounds_one_release(item)]
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
    body = _read(folder / PASSPORT, _MOST_BYTES)
    seal = Signature.parse(_read(folder / SIGNATURE, _MOST_BYTES)) if (folder / SIGNATURE).is_file() else None
    if public_key is not None:
        if seal is None:
            raise TrustError(
                f"expected a signed passport in '{folder}', got no passport.sig: export it again with --key"
            )
        seal.check(body, public_key)
    passport = parse_passport(body, seal)
    passport.check_expiry(now)
    return passport


def parse_passport(body: bytes, signature: Signature | None = None) -> Passport:
    """A passport from its bytes; neither its expiry nor its signature is checked.

    Raises:
        PassportError: it is no passport.
    """
    top = Fields(parse_json(body, PASSPORT, _MOST_BYTES), "passport")
    top.integer("format", 1, 1)
    expires = top.take("expires")
    name = top.text("name", 64)
    if not _NAME.fullmatch(name):
        raise top.fault("name", "letters, digits, '_', '.' and '-'", name)
    passport = Passport(
        version=top.text("splitveil", 64),
        created=_time(top, "created"),
        expires=None if expires is None else _time(top, "expires"),
        name=name,
        defense=_defense(top.fields("defense")),
        input_shape=top.shape("input_shape", 3, 3),
        class_names=tuple(_texts(top, "class_names")),
        feature=_spec(top.fields("feature")),
        release=_spec(top.fields("release")),
        reply_shape=_shape(top.fields("reply")),
        output_shape=_shape(top.fields("output")),
        noise=_noises(top),
        codec=_codec(top.fields("codec")),
        precision=_precision(top.fields("precision")),
        files=_files(top.fields("files")),
        certificates=_object(top, "certificates"),
        audit=_object(top, "audit"),
        data=_data(top.fields("data")),
        parity=top.fields("parity").take_all(),
        release_range=top.interval("release_range"),
        body=bytes(body),
        signature=signature,
    )
    top.done()
    return passport


def _time(top: Fields, key: str) -> datetime:
    text = top.text(key, 40)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise top.fault(key, "a time as ISO 8601", text) from error
    if moment.utcoffset() != timedelta(0):
        raise top.fault(key, "a time in UTC, as 2030-01-01T00:00:00Z", text)
    return moment.astimezone(UTC)


def _defense(fields: Fields) -> dict[str, Any]:
    found = {"name": fields.text("name", 256), "params": fields.fields("params").take_all()}
    fields.done()
    return found


def _texts(top: Fields, key: str) -> list[str]:
    texts = top.items(key, _MOST_CLASSES)
    if not all(isinstance(text, str) and len(text) <= 256 for text in texts):
        raise top.fault(key, "texts of at most 256 characters", texts)
    return texts


def _spec(fields: Fields) -> dict[str, Any]:
    shape = fields.shape("shape", 1, 3)
    kind = fields.choice("kind", ["map", "tokens", "vector"])
    if len(shape) != {"map": 3, "tokens": 2, "vector": 1}[kind]:
        raise fields.fault("shape", f"the sizes of a {kind}", list(shape))
    found: dict[str, Any] = {
        "shape": shape,
        "kind": kind,
        "channel_axis": fields.integer("channel_axis", 0, len(shape) - 1),
        "grid": None if fields.take("grid") is None else fields.shape("grid", 2, 2),
        "prefix_tokens": fields.integer("prefix_tokens", 0, math.prod(shape)),
    }
    found["range"] = _range(fields)
    fields.done()
    return found


def _range(fields: Fields) -> tuple[float, float] | None:
    if fields.take("range") is None:
        return None
    ends = fields.items("range", 2)
    if len(ends) != 2 or not all(type(end) in (int, float) for end in ends) or not ends[0] <= ends[1]:
        raise fields.fault("range", "low and high, or null", ends)
    return float(ends[0]), float(ends[1])


def _shape(fields: Fields) -> tuple[int, ...]:
    shape = fields.shape("shape", 1, 4)
    fields.done()
    return shape


def _noises(top: Fields) -> tuple[NoiseLaw, ...]:
    found = []
    for index, item in enumerate(top.items("noise", _MOST_NOISES)):
        fields = Fields(item, f"passport.noise[{index}]")
        law = fields.choice("law", ["standard_normal", "uniform"])
        found.append(NoiseLaw(fields.text("name", 128), fields.shape("shape", 0, 4), law))
        fields.done()
    if len({law.name for law in found} | {"x", "r"}) != len(found) + 2:
        raise top.fault("noise", "different names, none of them 'x' or 'r'", [law.name for law in found])
    return tuple(found)


def _codec(fields: Fields) -> CodecSpec:
    if fields.choice("name", ["float32", "quantise"]) == "float32":
        fields.done()
        return CodecSpec("float32")
    codec = CodecSpec("quantise", fields.integer("bits", 1, 16), fields.number("low"), fields.number("high"))
    if not codec.low < codec.high:
        raise fields.fault("high", f"high above low = {codec.low}", codec.high)
    fields.done()
    return codec


def _precision(fields: Fields) -> dict[str, str]:
    found = {side: fields.choice(side, _PRECISIONS) for side in ("edge", "cloud")}
    fields.done()
    return found


def _files(fields: Fields) -> dict[str, FileSeal]:
    found = {}
    for name in fields.names():
        if name not in _FILES:
            raise PassportError(f"expected files of {', '.join(_FILES)} in the passport, got {name[:80]!r}")
        seal = fields.fields(name)
        digest = seal.text("sha256", 64)
        if not _DIGEST.fullmatch(digest):
            raise seal.fault("sha256", "64 hexadecimal digits", digest)
        found[name] = FileSeal(digest, seal.integer("bytes", 1, 2**40))
        seal.done()
    fields.done()
    for name in (EDGE, CLOUD):
        if name not in found:
            raise PassportError(f"expected '{name}' among the files of the passport, got {', '.join(found) or 'none'}")
    return found


def _object(top: Fields, key: str) -> dict[str, Any] | None:
    return None if top.take(key) is None else top.fields(key).take_all()


def _data(fields: Fields) -> dict[str, Any]:
    digest = fields.take("digest")
    if digest is not None and not (isinstance(digest, str) and 1 <= len(digest) <= 256):
        raise fields.fault("digest", "text, or null", digest)
    fields.done()
    return {"digest": digest}


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


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(most + 1)
    except OSError as error:
        raise MissingFileError(
            f"expected a bundle with '{file}', got {error.strerror}: make one with  splitveil export"
        ) from error
