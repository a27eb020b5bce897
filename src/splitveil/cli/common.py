"""What commands share: options given as key=value, the progress bar, tables and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from splitveil.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from splitveil.records import RunRecord
    from splitveil.training.observer import Observer

__all__ = [
    "echo_json",
    "parse_grid",
    "parse_options",
    "parse_shape",
    "print_table",
    "progress_bar",
    "show_table",
    "trust",
]


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``["weight=2", "surrogate=bound"]`` to values: JSON where it is JSON, else text.

    Example:
        >>> parse_options(["weight=2.5", "surrogate=bound"])
        {'weight': 2.5, 'surrogate': 'bound'}
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not (separator and key and text):
            raise UsageError(f"expected name=value, got '{pair}'")
        if key in values:
            raise UsageError(f"expected '{key}' once, got it twice")
        values[key] = _value(text)
    return values


def parse_grid(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """``["noise_std=0.1,0.2"]`` to lists of values: JSON where it is JSON, else text.

    Example:
        >>> parse_grid(["noise_std=0.1,0.2", "cem.surrogate=bound"])
        {'noise_std': [0.1, 0.2], 'cem.surrogate': ['bound']}
    """
    values: dict[str, list[Any]] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not (separator and key and text):
            raise UsageError(f"expected name=value,value, got '{pair}'")
        if key in values:
            raise UsageError(f"expected '{key}' once, got it twice")
        values[key] = [_value(part) for part in text.split(",")]
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_shape(text: str) -> tuple[int, ...]:
    """``3,32,32`` to sizes.

    Example:
        >>> parse_shape("3,32,32")
        (3, 32, 32)
    """
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise UsageError(f"expected --input-shape as channels,rows,columns, got '{text}'") from error


def trust(model: str | None) -> str | None:
    """The factory ``package.module:function`` if one is named; it may lie in the folder where the command runs."""
    if model == "":
        raise UsageError("expected the name of a model, got an empty one: see  splitveil list models")
    if model is None or ":" not in model:
        return None
    if os.getcwd() not in sys.path:  # an installed command, unlike  python -m, does not search it
        sys.path.append(os.getcwd())
    return model


def progress_bar(label: str) -> Observer:
    """A bar with rate and time left on stderr; silent when that is not a terminal, but for warnings."""
    from splitveil.cli.progress import Bar, Quiet

    return Bar(label) if sys.stderr.isatty() else Quiet(label)


def echo_json(data: Any) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def print_table(table: Table, *, width: int | None = None) -> None:
    """Print a table as it is written: brackets in its cells are text, not markup.

    Args:
        table: to print.
        width: columns; by default those of the terminal, and 120 where there is none.
    """
    from rich.console import Console

    Console(width=width or (None if sys.stdout.isatty() else 120), markup=False).print(table)


def show_table(records: Sequence[RunRecord]) -> None:
    """The summary of runs as a table on stdout."""
    from rich.table import Table

    from splitveil.report.console import summary_rows

    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = summary_rows(records)
    names = {row["score_name"] for row in rows if row["score_name"]} or {"accuracy"}
    for column in (
        "defense",
        f"{names.pop() if len(names) == 1 else 'score'} %",
        "attacker MSE",
        "PSNR dB",
        "SSIM",
        "worst dB",
        "validity",
    ):
        table.add_column(column, justify="left" if column == "defense" else "right")
    for row in rows:
        cells = [_number(row, "score", 100, 1), *(_number(row, key, 1, digits) for key, digits in _COLUMNS)]
        table.add_row(row["defense"], *cells, "INVALID" if row["status"] == "invalid" else row["status"])
    print_table(table)


_COLUMNS = (("mse", 4), ("psnr_db", 2), ("ssim", 3), ("worst_psnr_db", 2))


def _number(row: dict[str, Any], key: str, scale: float, digits: int) -> str:
    """The value, with half of its interval where it has one."""
    if row[key] is None:
        return "-"
    text = f"{row[key] * scale:.{digits}f}"
    if f"{key}_low" not in row:
        return text
    return f"{text} ±{(row[f'{key}_high'] - row[f'{key}_low']) / 2 * scale:.{digits}f}"
