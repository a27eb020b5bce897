"""Numbers as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from splitveil.records import MetricResult

__all__ = ["DASH", "INVALID", "amount", "fixed", "interval", "joined", "percent", "scalar", "score_word", "size_bytes"]

DASH = "\N{EN DASH}"
INVALID = "INVALID"
_DIGITS = {"mse": 4, "psnr": 1, "ssim": 2, "accuracy": 1}
_SCORES = {"1-nmae": "1 less the error's share of the range", "mean-iou": "mean IoU"}
_MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"


def fixed(value: float | None, digits: int) -> str:
    """A fixed number of decimals, so that numerals align in a column; a dash for nothing.

    Example:
        >>> fixed(0.03784, 4), fixed(None, 1) == DASH
        ('0.0378', True)
    """
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.replace("-", _MINUS) if float(text) else f"{0:.{digits}f}"


def percent(share: float | None) -> str:
    """A share in percent, one decimal, without the sign."""
    return fixed(None if share is None else 100 * share, 1)


def amount(name: str, result: MetricResult | None) -> str:
    """The mean of a metric in the digits that suit it."""
    return DASH if result is None else _number(name, result.mean)


def interval(name: str, result: MetricResult | None) -> str:
    """The interval of a metric, or nothing."""
    return "" if result is None else f"{_number(name, result.low)} to {_number(name, result.high)}"


def _number(name: str, value: float) -> str:
    return percent(value) if name == "accuracy" else fixed(value, _DIGITS.get(name, 3))


def score_word(names: Sequence[str]) -> str:
    """What to call the score of tasks, of one or of several kinds; in percent, it is ``accuracy`` where they classify.

    Example:
        >>> score_word(["mean-iou", "mean-iou"]), score_word(["accuracy", "mean-iou"]), score_word([])
        ('mean IoU', 'task score', 'accuracy')
    """
    found = set(names) or {"accuracy"}
    return "task score" if len(found) > 1 else _SCORES.get(*found, *found)


def size_bytes(count: int | None) -> str:
    """Bytes as a person reads them.

    Example:
        >>> size_bytes(512).replace(_THIN, " "), size_bytes(2048).replace(_THIN, " ")
        ('512 B', '2.0 KiB')
    """
    if count is None:
        return DASH
    if count < 1024:
        return f"{count}{_THIN}B"
    return f"{count / 1024:.1f}{_THIN}KiB" if count < 1024**2 else f"{count / 1024**2:.1f}{_THIN}MiB"


def scalar(value: Any) -> str:
    """A value of a record as text: numbers grouped by thousands, flags as words."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", _THIN).replace("-", _MINUS)
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", _MINUS) if math.isfinite(value) else DASH
    return str(value)


def joined(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    Example:
        >>> joined(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
