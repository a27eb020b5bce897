"""``splitveil demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, progress_bar, show_table


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the three runs and the report.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of training and attack.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train, attack and report three models on the digits: undefended, noise, and noise trained with CEM."""
    from splitveil.experiments.demo import run_demo
    from splitveil.report.build import build_report
    from splitveil.report.console import summary_rows

    records = run_demo(out, seed, progress_bar)
    page = build_report(records, out / "report.html", title="splitveil demo")
    if json_:
        echo_json({"report": str(page), "runs": summary_rows(records)})
        return
    show_table(records)
    typer.echo("higher MSE and lower PSNR are safer: the attacker's pictures are further from the originals")
    typer.echo(f"report: {page.resolve()}")
