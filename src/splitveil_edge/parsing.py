"""From bytes that nobody vouches for to a passport."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from splitveil_edge.document import CLOUD, EDGE, FINISH, CodecSpec, FileSeal, Law, NoiseLaw, Passport
from splitveil_edge.errors import PassportError
from splitveil_edge.reading import Fields, parse_json
from splitveil_edge.signing import Signature

__all__ = ["MOST_BYTES", "parse_passport"]

MOST_BYTES = 4 * 2**20
_MOST_CLASSES = 100_000
_MOST_NOISES = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILES = tuple(name + tail for name in (EDGE, FINISH, CLOUD) for tail in ("", ".data"))
_PRECISIONS = ("fp32", "fp16", "int8")


def parse_passport(body: bytes, signature: Signature | None = None) -> Passport:
    """A passport from its bytes; neither its expiry nor its signature is checked.

    Raises:
        PassportError: it is no passport.
    """
    top = Fields(parse_json(body, "passport.json", MOST_BYTES), "passport")
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
        law: Law = "uniform" if fields.choice("law", ["standard_normal", "uniform"]) == "uniform" else "standard_normal"
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
