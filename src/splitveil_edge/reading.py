"""JSON from outside, read with suspicion: bounded, closed, without NaN, duplicates or unknown keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from splitveil_edge.errors import PassportError

__all__ = ["Fields", "dump_json", "parse_json"]

_DEEPEST = 32
_LARGEST_INTEGER = 2**63
_LARGEST_SIZE = 2**24
_LARGEST_SHAPE = 2**28


def dump_json(data: Any) -> bytes:
    """The one form in which a passport is written: UTF-8, sorted keys, without NaN.

    Example:
        >>> dump_json({"b": 1, "a": [0.5]})
        b'{"a":[0.5],"b":1}\\n'
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def parse_json(body: bytes, what: str, most: int) -> dict[str, Any]:
    """An object of JSON with finite numbers.

    Args:
        body: of the file.
        what: it is, for the message.
        most: bytes that it may have.

    Raises:
        PassportError: it is longer, no JSON, no object, too deep, says a key twice or holds NaN or infinity.
    """
    if len(body) > most:
        raise PassportError(f"expected {what} of at most {most} bytes, got {len(body)}: it is none of ours")
    try:
        data = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}")
        _check(data, _DEEPEST)
    except (ValueError, RecursionError) as error:
        raise PassportError(f"expected an object of JSON in {what}, got {error}: export the bundle again") from error
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same key twice")
    return found


def _refuse(text: str) -> float:
    raise ValueError(f"{text}, which is not JSON")


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"more than {_DEEPEST} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number beyond all floats")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise ValueError("an integer beyond 64 bits")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half a surrogate pair is text to JSON and to nobody else
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check(item, depth - 1)
    if isinstance(value, dict):
        for key in value:
            key.encode()


class Fields:
    """The keys of an object, each read once and by its kind; `done` refuses what nobody has read.

    Args:
        data: the object.
        where: it stands, for messages.
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise PassportError(f"expected an object at {where}, got {_shown(data)}: export the bundle again")
        self.where = where
        self._data: Mapping[str, Any] = data
        self._read: set[str] = set()

    def take(self, key: str) -> Any:
        """Whatever stands under a key.

        Raises:
            PassportError: nothing does.
        """
        if key not in self._data:
            raise self.fault(key, "a value", "none")
        self._read.add(key)
        return self._data[key]

    def fault(self, key: str, expected: str, got: Any) -> PassportError:
        """The error for a value that is something else."""
        shown = got if got == "none" else _shown(got)
        return PassportError(f"expected {expected} at {self.where}.{key}, got {shown}: export the bundle again")

    def text(self, key: str, most: int) -> str:
        """Text of 1 to `most` characters."""
        value = self.take(key)
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise self.fault(key, f"text of 1 to {most} characters", value)
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of several words."""
        value = self.take(key)
        if not isinstance(value, str) or value not in choices:
            raise self.fault(key, f"one of {', '.join(choices)}", value)
        return value

    def integer(self, key: str, least: int, most: int) -> int:
        """An integer within bounds."""
        value = self.take(key)
        if type(value) is not int or not least <= value <= most:
            raise self.fault(key, f"an integer from {least} to {most}", value)
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.take(key)
        if type(value) not in (int, float) or abs(value) > 1e300:
            raise self.fault(key, "a number", value)
        return float(value)

    def shape(self, key: str, least: int, most: int) -> tuple[int, ...]:
        """`least` to `most` positive sizes, of a tensor that fits into memory."""
        value = self.take(key)
        sizes = value if isinstance(value, list) else []
        sound = all(type(size) is int and 1 <= size <= _LARGEST_SIZE for size in sizes)
        if not isinstance(value, list) or not least <= len(sizes) <= most or not sound:
            raise self.fault(key, f"{least} to {most} sizes from 1 to {_LARGEST_SIZE}", value)
        if math.prod(sizes) > _LARGEST_SHAPE:
            raise self.fault(key, f"a shape of at most {_LARGEST_SHAPE} values", value)
        return tuple(sizes)

    def items(self, key: str, most: int) -> list[Any]:
        """A list of at most so many things."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > most:
            raise self.fault(key, f"a list of at most {most}", value)
        return value

    def interval(self, key: str) -> tuple[float, float] | None:
        """``{low, high}`` with low < high, or None."""
        if self.take(key) is None:
            return None
        fields = self.fields(key)
        low, high = fields.number("low"), fields.number("high")
        fields.done()
        if not low < high:
            raise self.fault(key, "low < high", self._data[key])
        return low, high

    def fields(self, key: str) -> Fields:
        """The object under a key."""
        return Fields(self.take(key), f"{self.where}.{key}")

    def take_all(self) -> dict[str, Any]:
        """All of it, as it is."""
        self._read.update(self._data)
        return dict(self._data)

    def names(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._data)

    def done(self) -> None:
        """Refuse keys that were not read.

        Raises:
            PassportError: names them.
        """
        unknown = sorted(set(self._data) - self._read)
        if unknown:
            raise PassportError(
                f"expected only known keys at {self.where}, got {', '.join(map(_shown, unknown[:3]))}: "
                "it was changed, or comes from a newer version: update splitveil-edge"
            )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
