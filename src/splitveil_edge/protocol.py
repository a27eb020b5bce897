"""The Open Inference Protocol v2 with binary tensors, as far as the edge needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.document import SHORT_DIGEST
from splitveil_edge.errors import PassportError, ServerError, TrustError
from splitveil_edge.passport import Passport, parse_passport

__all__ = ["LENGTH_HEADER", "Request", "check_metadata", "make_request", "parse_reply", "reason_of"]

LENGTH_HEADER = "Inference-Header-Content-Length"

_DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Request:
    """What is posted.

    Args:
        path: of the model on the server.
        headers: by name.
        body: JSON, then the tensor.
        rows: n, that the reply must have.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    rows: int


def make_request(passport: Passport, sent: NDArray[Any], datatype: str) -> Request:
    """One inference on a tensor as the codec has encoded it; the reply is asked for in binary too.

    It names the passport, so that a server which holds another bundle by now refuses.
    """
    blob = np.ascontiguousarray(sent, dtype=_DATATYPES[datatype]).tobytes()
    tensor = {
        "name": "r",
        "shape": list(sent.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": len(blob)},
    }
    parameters = {"binary_data_output": True, "passport": passport.short_digest}
    asked = {"inputs": [tensor], "parameters": parameters}
    head = json.dumps(asked, separators=(",", ":")).encode()
    # no Content-Type: by RFC 9110 (8.3) a body without one is octets, which it is, and 40 bytes count at batch 1
    return Request(f"/v2/models/{passport.name}/infer", {LENGTH_HEADER: str(len(head))}, head + blob, len(sent))


def parse_reply(body: bytes, headers: Mapping[str, str], passport: Passport, rows: int) -> NDArray[np.float32]:
    """The reply ``(rows, *reply)`` of a server, binary or JSON.

    Args:
        body: of the response.
        headers: of the response, with names that ignore case.
        passport: of the bundle.
        rows: that were sent.

    Raises:
        ServerError: it is no answer of the protocol, or of another shape, or not finite.
        TrustError: the server says that it answered for another passport.
    """
    head, blob = _split(body, headers)
    try:
        answer = json.loads(head)
        said = (answer.get("parameters") or {}).get("passport")
        (output,) = [item for item in answer["outputs"] if item["name"] == "reply"]
        shape, datatype = tuple(output["shape"]), output["datatype"]
        size = (output.get("parameters") or {}).get("binary_data_size")
        values = _values(output.get("data")) if size is None else _blob(blob, size)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ServerError(
            f"expected an answer of the Open Inference Protocol, got {_clean(repr(error))}: check the address of the "
            "server"
        ) from error
    if said is not None and not passport.is_named(said):
        raise TrustError(
            f"expected an answer under the passport {passport.short_digest}…, got one under "
            f"{_clean(said)[:SHORT_DIGEST]}…: the server holds another bundle now; get its passport, or the "
            "right server"
        )
    expected = (rows, *passport.reply_shape)
    if datatype != "FP32" or shape != expected or values.size != math.prod(expected):
        raise ServerError(
            f"expected a reply of FP32 {expected}, got {_clean(datatype)} {_clean(shape)} with {values.size} values"
        )
    if not np.isfinite(values).all():
        raise ServerError("expected a finite reply, got NaN or infinity: the server does not run this bundle")
    return values.reshape(expected)


def check_metadata(body: bytes, passport: Passport) -> None:
    """Hold what a server says about its model against the passport of the edge.

    Raises:
        TrustError: it has another passport, or shows none.
        ServerError: it is no metadata of the protocol.
    """
    try:
        data = json.loads(body)
        shown = data.get("passport")
        text = shown["body"] if isinstance(shown, dict) else None
        claimed = shown["sha256"] if isinstance(shown, dict) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ServerError(
            f"expected metadata of the model '{passport.name}', got {_clean(repr(error))}: check the address of the "
            "server"
        ) from error
    if not isinstance(claimed, str):
        raise TrustError(
            f"expected a server that shows the passport of '{passport.name}', got one without: serve the bundle with  "
            "splitveil serve"
        )
    if claimed != passport.digest:
        raise TrustError(
            f"expected a server with the passport {passport.short_digest}… of this bundle, got "
            f"{_clean(claimed)[:SHORT_DIGEST]}…{_compared(text, passport)}: nothing was sent since; get both "
            "sides of one bundle"
        )


def reason_of(body: bytes) -> str:
    """What a server says about its refusal, in one line."""
    try:
        text = json.loads(body)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        text = body[:_SHOWN].decode("utf-8", "replace")
    return _clean(text) or "no reason"


def _clean(said: Any) -> str:
    """What a server said as one short line; a terminal takes control characters as orders."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(said)).split())[:_SHOWN]


def _compared(shown: Any, passport: Passport) -> str:
    """In which keys the passports differ, where that can be said."""
    try:
        text = shown if isinstance(shown, str) else json.dumps(shown, allow_nan=False)
        other = parse_passport(text.encode())
    except (PassportError, ValueError, TypeError, RecursionError):
        return ""
    names = ("name", "created", "defense", "release", "codec", "files", "precision", "data")
    differing = [name for name in names if getattr(other, name) != getattr(passport, name)]
    return f" (it differs in {', '.join(differing)})" if differing else ""


def _split(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    text = headers.get(LENGTH_HEADER)
    if text is None:
        return body, b""
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= len(body)):
        raise ServerError(f"expected {LENGTH_HEADER} within a body of {len(body)} bytes, got {text[:40]!r}")
    return body[: int(text)], body[int(text) :]


def _values(data: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinity, which is refused with the reply
        return np.asarray(data, dtype=np.float32).reshape(-1)


def _blob(blob: bytes, size: Any) -> NDArray[np.float32]:
    if type(size) is not int or size != len(blob) or size % 4:
        raise ValueError(f"binary_data_size {size!r} for {len(blob)} bytes")
    return np.frombuffer(blob, dtype="<f4").astype(np.float32)
