"""Answers of the Open Inference Protocol v2, from arrays to bytes; pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from splitveil.cloud.datatypes import datatype_of

__all__ = ["encode_reply"]

_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode_reply(
    model: str,
    version: str | None,
    id: str | None,
    arrays: Mapping[str, NDArray[Any]],
    binary: Mapping[str, bool],
    passport: str | None = None,
) -> tuple[bytes, int | None]:
    """One answer.

    Args:
        model: its name.
        version: that was asked for; None where none was.
        id: of the request, to be echoed.
        arrays: outputs by name, finite.
        binary: the outputs that are wanted, and whether each goes in binary form.
        passport: as the request named it, to be echoed; None where it named none.

    Returns:
        The body, and the length of its JSON where anything behind it is binary, else None.

    Example:
        >>> import numpy as np
        >>> body, size = encode_reply("m", None, "7", {"reply": np.zeros((1, 2), np.float32)}, {"reply": True})
        >>> body[:size].decode()
        '{"model_name":"m","id":"7","outputs":[{"name":"reply","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    """
    top: dict[str, Any] = {"model_name": model}
    if version is not None:
        top["model_version"] = version
    if id is not None:
        top["id"] = id
    if passport is not None:
        top["parameters"] = {"passport": passport}
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, in_binary in binary.items():
        array = arrays[name]
        item: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if in_binary:
            blob = array.tobytes()
            item["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            item["data"] = array.ravel().tolist()
        outputs.append(item)
    top["outputs"] = outputs
    text = _COMPACT(top).encode()
    return (b"".join((text, *blobs)), len(text)) if blobs else (text, None)
