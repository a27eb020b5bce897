"""``splitveil demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, show_table


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of training and attack.")] = 0,
    curves: Annotated[
        bool, typer.Option("--curves", help="Compare at equal accuracy over a grid and two seeds: some minutes.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train, attack and report three models on the digits: undefended, noise, and noise trained with CEM."""
    if curves:
        _curves(out, seed, json_)
        return
    from splitveil.cli.board import make_board
    from splitveil.experiments.demo import DEFENSES, PAGE, check_demo_folder, run_demo
    from splitveil.report.build import build_report, check_out
    from splitveil.report.console import summary_rows

    page = out / PAGE
    check_demo_folder(out)
    check_out(page)  # before the work, not after it
    with make_board(len(DEFENSES)) as board:
        records = run_demo(out, seed, board)
    build_report(records, page, title="splitveil demo")
    if json_:
        echo_json({"report": str(page), "runs": summary_rows(records)})
        return
    show_table(records)
    typer.echo("higher MSE and lower PSNR are safer: the attacker's pictures are further from the originals")
    typer.echo(f"report: {page.resolve()}")


def _curves(out: Path, seed: int, json_: bool) -> None:
    from splitveil.cli.compare import finish
    from splitveil.errors import UsageError
    from splitveil.experiments.demo import check_demo_folder, comparison_cells

    if seed != 0:
        raise UsageError("expected either --curves or --seed, got both: curves take two seeds of their own")
    check_demo_folder(out)
    finish(comparison_cells(), out / "curves", recipe="tiny", json_=json_)
