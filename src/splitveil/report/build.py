"""The report: one HTML file that opens offline, and its numbers as JSON and CSV beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from splitveil.errors import OutputError
from splitveil.files import write_text
from splitveil.records import RunRecord
from splitveil.report.console import COLUMNS
from splitveil.report.numbers import as_csv, as_json
from splitveil.report.page import context
from splitveil.report.runs import Run, load_runs

__all__ = ["build_report", "check_out", "write_page", "write_plain_page"]

_OURS = {
    "": re.compile(rb'<meta name="generator" content="splitveil report'),
    ".json": re.compile(rb'\A\{\s*"generator": "splitveil report'),
    ".csv": re.compile(rb"\A" + re.escape(",".join(COLUMNS).encode())),
}
"""What tells a file of ours from another: of the page, and of what lies beside it."""
_HEAD_BYTES = 4096


def build_report(records: Sequence[RunRecord | Path | str], out: Path | str, *, title: str = "What comes back") -> Path:
    """Write the report of these runs, and its numbers beside it; the same records give the same bytes.

    Args:
        records: runs to compare, or their folders; what a run lacks is shown as a dash with a note.
        out: the HTML file; the same name with ``.json`` and ``.csv`` holds the numbers. What is there of an older
            report is replaced; any other file is left alone.
        title: of the page.

    Returns:
        The path that was written.

    Raises:
        MissingDataError: a folder without a run.
        InputError: there is no run, or none has anything to show.
        OutputError: `out` is something else than a report of ours, or cannot be written.
    """
    runs = load_runs([item if isinstance(item, RunRecord) else RunRecord.open(Path(item)) for item in records])
    variables = {**context(runs, title), "comparison": None}
    return write_page(Path(out), runs, variables)


def write_page(
    out: Path, runs: Sequence[Run], variables: Mapping[str, Any], comparison: Mapping[str, Any] | None = None
) -> Path:
    """Fill the template and write it with its numbers, unless something else than a report of ours is in the way."""
    check_out(out)
    beside = {"json_name": out.with_suffix(".json").name, "csv_name": out.with_suffix(".csv").name}
    page = _environment().get_template("page.html.j2")
    html = page.render({**variables, **beside, **_script()})
    headline, title = variables["headline"], variables["title"]
    write_text(out.with_suffix(".json"), as_json(runs, title=title, headline=headline, comparison=comparison))
    write_text(out.with_suffix(".csv"), as_csv(runs))
    write_text(out, html)
    return out


def write_plain_page(out: Path, template: str, variables: Mapping[str, Any]) -> Path:
    """Fill a template that has no runs behind it, and no numbers beside it."""
    check_out(out)
    write_text(out, _environment().get_template(template).render({**variables, **_script()}))
    return out


def _script() -> dict[str, str]:
    """What makes plots answer, and the digest by which a page allows it."""
    script = files("splitveil.report").joinpath("templates", "page.js").read_text(encoding="utf-8")
    return {"script": Markup(script), "script_digest": base64.b64encode(sha256(script.encode()).digest()).decode()}


def check_out(out: Path) -> None:
    """Raise `OutputError` unless `out` and what goes beside it are free, or a report of ours."""
    if out.is_dir():
        raise OutputError(f"expected a file to write the report to, got the folder '{out}': pass {out}/report.html")
    if out.suffix in _OURS and out.suffix:
        raise OutputError(f"expected the name of a page, got '{out}': pass {out.with_suffix('.html')}")
    for suffix, ours in _OURS.items():
        path = out.with_suffix(suffix) if suffix else out
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"cannot read what is at '{path}': {error.strerror}; choose another --out") from error
        if not ours.search(head):
            raise OutputError(
                f"expected no file or an older report at '{path}', got another file: "
                "choose another --out, or move it away"
            )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("splitveil.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
