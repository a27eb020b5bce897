"""The report: one HTML file that opens offline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from splitveil.errors import OutputError
from splitveil.files import write_text
from splitveil.records import RunRecord
from splitveil.report.page import context
from splitveil.report.runs import load_runs

__all__ = ["build_report", "check_out", "write_page"]

_OURS = re.compile(rb'<meta name="generator" content="splitveil report')
_HEAD_BYTES = 4096


def build_report(records: Sequence[RunRecord | Path | str], out: Path | str, *, title: str = "What comes back") -> Path:
    """Write the report of these runs; the same records give the same bytes.

    Args:
        records: runs to compare, or their folders; what a run lacks is shown as a dash with a note.
        out: the HTML file. A report that is there is replaced; any other file is left alone.
        title: of the page.

    Returns:
        The path that was written.

    Raises:
        MissingDataError: a folder without a run.
        InputError: there is no run, or none has anything to show.
        OutputError: `out` is something else than a report of ours, or cannot be written.
    """
    runs = load_runs([item if isinstance(item, RunRecord) else RunRecord.open(Path(item)) for item in records])
    return write_page(Path(out), {**context(runs, title), "comparison": None})


def write_page(out: Path, variables: Mapping[str, Any], *, template: str = "page.html.j2") -> Path:
    """Fill a template and write it, unless `out` is something else than a report of ours."""
    check_out(out)
    write_text(out, _environment().get_template(template).render(variables))
    return out


def check_out(out: Path) -> None:
    """Raise `OutputError` unless `out` is free, or a report of ours."""
    if out.is_dir():
        raise OutputError(f"expected a file to write the report to, got the folder '{out}': pass {out}/report.html")
    try:
        with out.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot read what is at '{out}': {error.strerror}; choose another --out") from error
    if not _OURS.search(head):
        raise OutputError(
            f"expected no file or an older report at '{out}', got another file: choose another --out, or move it away"
        )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("splitveil.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
