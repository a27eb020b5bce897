"""``splitveil report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold runs.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    json_: Annotated[bool, typer.Option("--json", help="The rows of the table as JSON on stdout.")] = False,
) -> None:
    """Draw one page about one or more runs; it opens offline."""
    from splitveil.records import RunRecord
    from splitveil.report.build import build_report
    from splitveil.report.console import summary_rows

    records = RunRecord.gather(runs)
    page = build_report(records, out)
    if json_:
        echo_json({"report": str(page), "runs": summary_rows(records)})
    else:
        typer.echo(f"report: {page}")
