"""Requests of the Open Inference Protocol v2, from bytes to arrays; pure functions.

```
body ─►[ header_size ]─ JSON ─►[ fields ]─ names, shapes, sizes ─►[ data or blobs ]─ arrays
```
All of it comes from outside: sizes are Python's integers, which do not overflow, and are held against the bytes that
are there before anything is read or allocated. JSON is counted before it is decoded, since a list of empty lists takes
thirty times its own size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil.cloud.datatypes import DATATYPES, TensorSpec
from splitveil.cloud.problems import HttpError, shown

__all__ = ["HEADER_LENGTH", "Blobs", "InferRequest", "header_size", "parse_infer", "read_request"]

HEADER_LENGTH = "Inference-Header-Content-Length"

_MOST_AXES = 8
_MOST_DIGITS = 18
_LARGEST_ID = 1024
_ENVELOPE_BYTES = 65536
"""What a request takes beside its values; shorter JSON can neither hold much nor take long."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks.

    Attributes:
        id: to be echoed, or None.
        inputs: arrays ``(n, *shape)`` by name, as the signature orders them; views of the body where it is binary.
        outputs: the names that are wanted, and whether each is to come in binary form.
        parameters: of the whole request; those that are not known are left to their reader.
    """

    id: str | None
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, bool]
    parameters: dict[str, Any]


def parse_infer(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    most_rows: int,
) -> InferRequest:
    """One request; NaN and infinity pass in binary form, their judge is who knows what a release may hold.

    Args:
        body: inflated.
        header_length: the text of the header `HEADER_LENGTH`; None where there is none.
        inputs: the signature of the model.
        outputs: the names that the model has.
        most_rows: that one request may hold.

    Returns:
        The arrays, and which outputs are wanted in which form.

    Raises:
        HttpError: status 400, with the reason.

    Example:
        >>> r = TensorSpec("r", "FP32", (2,))
        >>> body = b'{"inputs": [{"name": "r", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1]}]}'
        >>> parse_infer(body, None, [r], ["reply"], 8).inputs["r"].tolist()
        [[0.5, 1.0]]
    """
    size = header_size(header_length, len(body))
    text = body[:size]
    if size <= _ENVELOPE_BYTES:
        top = _json(text, _DECODER)
    else:
        _check_counts(text, inputs, most_rows)
        top = _json(text, _YIELDING_DECODER)
    if not isinstance(top, dict):
        raise HttpError(400, f"expected a JSON object as request, got {type(top).__name__}")
    return read_request(top, Blobs(body, size), inputs, outputs, most_rows)


def read_request(
    top: dict[str, Any], blobs: Blobs, inputs: Sequence[TensorSpec], outputs: Sequence[str], most_rows: int
) -> InferRequest:
    """One request whose envelope has been read, wherever it came from.

    Args:
        top: the request without its binary parts, as its JSON says it.
        blobs: those parts.
        inputs: see `parse_infer`, likewise the others and the errors.
        outputs: names.
        most_rows: limit.
    """
    wanted = {spec.name: spec for spec in inputs}
    arrays: dict[str, NDArray[Any]] = {}
    for item in _items(top, "inputs"):
        spec = _known(item, wanted, arrays, "input")
        arrays[spec.name] = _array(item, spec, blobs, most_rows)
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise HttpError(400, f"expected the input '{missing[0]}', got none: the metadata of the model lists its inputs")
    blobs.check_end()
    if len({len(array) for array in arrays.values()}) > 1:
        raise HttpError(400, "expected inputs with one row per sample, got different numbers of rows")
    parameters = _parameters(top, "request")
    ordered = {name: arrays[name] for name in wanted}
    return InferRequest(_id(top), ordered, _outputs(top, parameters, outputs), parameters)


def header_size(text: str | None, total: int) -> int:
    """The length of the JSON at the beginning of a body.

    Args:
        text: of the header `HEADER_LENGTH`; None means that all of the body is JSON.
        total: length of the body, bytes.

    Raises:
        HttpError: status 400: no number, negative, or beyond the body.

    Example:
        >>> header_size(None, 7), header_size("5", 7)
        (7, 5)
    """
    if text is None:
        return total
    digits = text.strip()
    # int() would read "+1", "1_0" and the digits of other scripts, and long texts slowly
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
        raise HttpError(400, f"expected {HEADER_LENGTH} to be the length of the JSON in bytes, got {shown(text)}")
    size = int(digits)
    if size > total:
        raise HttpError(400, f"expected {HEADER_LENGTH} within the body of {total} bytes, got {size}")
    return size


class Blobs:
    """The binary parts behind the JSON, in the order of the tensors.

    Args:
        body: that holds them.
        begin: where they begin in it.
    """

    def __init__(self, body: bytes, begin: int) -> None:
        self._body, self._at = body, begin

    def take(self, size: int, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next of them, as an array."""
        left = len(self._body) - self._at
        if size > left:
            raise HttpError(
                400, f"expected {size} bytes of binary data for '{spec.name}', got {left}: the body is truncated"
            )
        count = size // spec.dtype.itemsize
        array = np.frombuffer(self._body, spec.dtype, count, self._at) if count else np.empty(0, spec.dtype)
        self._at += size
        return array.reshape(shape)

    def check_end(self) -> None:
        """That none is left over."""
        left = len(self._body) - self._at
        if left:
            raise HttpError(
                400,
                f"expected the body to end with the binary data of the inputs, got {left} bytes more: "
                "compare binary_data_size and the header's length with what is sent",
            )


def _refuse_constant(name: str) -> float:
    raise HttpError(400, f"expected finite numbers, got {name}: JSON has none, and no release holds it")


def _float(text: str) -> float:
    return float(text)


def _int(text: str) -> int:
    return int(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
# the types themselves are called without a look at who else waits for the interpreter, which stops the event loop
_YIELDING_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float, parse_int=_int)


def _check_counts(text: bytes, inputs: Sequence[TensorSpec], most_rows: int) -> None:
    """Refuse more lists, values and names than the largest request and its envelope have."""
    lists = sum(1 + most_rows * sum(accumulate(spec.shape[:-1], mul, initial=1)) for spec in inputs)
    values = sum(most_rows * math.prod(spec.shape) for spec in inputs)
    limits = {b"[": lists, b",": lists + values, b"{": 0, b":": 0, b'"': 0}
    for mark, count in limits.items():
        most = count + _ENVELOPE_BYTES
        if text.count(mark) > most:
            raise HttpError(
                400,
                f"expected JSON with at most {most} times {mark.decode()}, which {most_rows} rows need, got more: "
                "send fewer rows",
            )


def _json(data: bytes, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HttpError(
            400, f"expected JSON in UTF-8, got byte {error.start} that is none: is {HEADER_LENGTH} missing?"
        ) from error
    except json.JSONDecodeError as error:  # its text quotes nothing of the body
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise HttpError(400, f"expected JSON, got {place}: is {HEADER_LENGTH} missing or wrong?") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise HttpError(400, f"expected JSON of a request, got {type(error).__name__} while reading it") from error


def _items(top: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items = top.get(key)
    if not isinstance(items, list) or not items:
        raise HttpError(400, f"expected '{key}' to be a list of tensors, got {shown(items)}")
    for item in items:
        if not isinstance(item, dict):
            raise HttpError(400, f"expected an object for each of '{key}', got {type(item).__name__}")
    return items


def _known(item: dict[str, Any], wanted: dict[str, TensorSpec], seen: dict[str, Any], kind: str) -> TensorSpec:
    name = item.get("name")
    spec = wanted.get(name) if isinstance(name, str) else None
    if spec is None:
        raise HttpError(400, f"expected one of the {kind}s {', '.join(wanted)}, got the name {shown(name)}")
    if spec.name in seen:
        raise HttpError(400, f"expected the {kind} '{spec.name}' once, got it twice")
    return spec


def _array(item: dict[str, Any], spec: TensorSpec, blobs: Blobs, most_rows: int) -> NDArray[Any]:
    datatype = item.get("datatype")
    if datatype != spec.datatype:
        known = "" if isinstance(datatype, str) and datatype in DATATYPES else ", which is no datatype"
        raise HttpError(400, f"expected datatype {spec.datatype} for '{spec.name}', got {shown(datatype)}{known}")
    shape = _shape(item.get("shape"), spec, most_rows)
    size = _parameters(item, f"input '{spec.name}'").get("binary_data_size")
    if size is None:
        return _from_json(item.get("data"), spec, shape)
    if "data" in item:
        raise HttpError(400, f"expected data or binary_data_size for '{spec.name}', got both")
    need = math.prod(shape) * spec.dtype.itemsize
    if type(size) is not int or size != need:
        raise HttpError(
            400,
            f"expected binary_data_size {need} for '{spec.name}' of shape {list(shape)} and {spec.datatype}, "
            f"got {shown(size)}",
        )
    return blobs.take(size, spec, shape)


def _shape(value: Any, spec: TensorSpec, most_rows: int) -> tuple[int, ...]:
    row = ", ".join(map(str, spec.shape))
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_AXES or not all(type(size) is int for size in value):
        raise HttpError(400, f"expected the shape [n, {row}] for '{spec.name}', got {shown(value)}")
    if tuple(value[1:]) != spec.shape or value[0] < 0:
        cure = f": the batch axis is missing, send [1, {row}]" if tuple(value) == spec.shape else ""
        raise HttpError(400, f"expected the shape [n, {row}] for '{spec.name}', got {shown(value)}{cure}")
    if value[0] > most_rows:
        raise HttpError(400, f"expected at most {most_rows} rows in a request, got {shown(value[0])}: send several")
    return tuple(value)


def _parameters(item: dict[str, Any], of: str) -> dict[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise HttpError(400, f"expected an object as parameters of the {of}, got {type(parameters).__name__}")
    return parameters


_JSON_TYPES: dict[str, set[type]] = {"f": {int, float}, "u": {int}, "i": {int}, "b": {bool}}


def _from_json(data: Any, spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    if not isinstance(data, list):
        raise HttpError(400, f"expected data or binary_data_size for '{spec.name}', got {type(data).__name__}")
    values, kind = _row_major(data, spec, shape), spec.dtype.kind
    if not set(map(type, values)) <= _JSON_TYPES[kind]:
        raise HttpError(400, f"expected numbers of {spec.datatype} as data of '{spec.name}', got something else")
    if values and kind in "iu":
        limits = np.iinfo(spec.dtype)
        if min(values) < limits.min or max(values) > limits.max:
            raise HttpError(400, f"expected values from {limits.min} to {limits.max} for '{spec.name}', got others")
    try:
        found = np.array(values, np.float64 if kind == "f" else spec.dtype)
    except OverflowError as error:
        raise HttpError(400, f"expected {spec.datatype} for '{spec.name}', got a number of too many digits") from error
    with np.errstate(over="ignore"):  # becomes infinity, which is judged with the values
        return found.astype(spec.dtype).reshape(shape)


def _row_major(data: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> list[Any]:
    """The values of a list that is flat or nested as its shape; counted before anything is made of them."""
    need = math.prod(shape)
    wanted = f"expected {need} values in row-major order for '{spec.name}' of {list(shape)}, got"
    if not data or type(data[0]) is not list:
        if len(data) != need:
            raise HttpError(400, f"{wanted} {len(data)} values")
        return data
    level: list[Any] = [data]
    for axis, size in enumerate(shape):
        if not all(type(item) is list for item in level):
            raise HttpError(400, f"{wanted} lists that are nested {axis} deep: send them flat, or as the shape says")
        if len(lengths := {len(item) for item in level}) > 1:
            raise HttpError(400, f"{wanted} ragged lists")
        if lengths != {size}:
            raise HttpError(400, f"{wanted} lists of {shown(lengths.pop())} in axis {axis}, not {size}")
        level = list(chain.from_iterable(level))
    return level


def _id(top: dict[str, Any]) -> str | None:
    value = top.get("id")
    if value is not None and not (isinstance(value, str) and len(value) <= _LARGEST_ID):
        raise HttpError(400, f"expected a text of at most {_LARGEST_ID} characters as id, got {shown(value)}")
    return value


def _outputs(top: dict[str, Any], parameters: dict[str, Any], names: Sequence[str]) -> dict[str, bool]:
    binary = _flag(parameters, "binary_data_output", False)
    if top.get("outputs") in (None, []):
        return dict.fromkeys(names, binary)
    found: dict[str, bool] = {}
    for item in _items(top, "outputs"):
        name = item.get("name")
        if not isinstance(name, str) or name not in names:
            raise HttpError(400, f"expected one of the outputs {', '.join(names)}, got the name {shown(name)}")
        if name in found:
            raise HttpError(400, f"expected the output '{name}' once, got it twice")
        own = _parameters(item, f"output '{name}'")
        if "classification" in own:
            raise HttpError(400, "expected outputs as tensors, got the parameter 'classification': it is not supported")
        found[name] = _flag(own, "binary_data", binary)
    return found


def _flag(parameters: dict[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise HttpError(400, f"expected true or false for '{key}', got {shown(value)}")
    return value
