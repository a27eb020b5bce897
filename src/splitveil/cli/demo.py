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
    ui: Annotated[bool, typer.Option("--ui", help="Then serve the live page, at /ui/, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="With --ui; 0 lets the system choose.")] = 8000,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Train, attack and report three models on the digits: undefended, noise, and noise trained with CEM."""
    if ui:
        _check_ui(curves, json_)
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
    if ui:
        _serve(out, port)


def _check_ui(curves: bool, json_: bool) -> None:
    from splitveil.cli.serve import check_extra
    from splitveil.errors import UsageError
    from splitveil.export.graph import check_exporter

    if curves:
        raise UsageError("expected either --ui or --curves, got both: the page shows the demo's three runs")
    if json_:
        raise UsageError("expected either --ui or --json, got both: a server that runs on ends no JSON")
    check_exporter()  # both before the work, not after it
    check_extra()


def _serve(out: Path, port: int) -> None:
    from splitveil.cloud.logs import configure
    from splitveil.cloud.pages import HOME
    from splitveil.cloud.server import Place, serve
    from splitveil.cloud.settings import ServeSettings

    bundle = _bundle(out)
    configure("warning" if port else "info")
    typer.echo(f"live page: http://127.0.0.1:{port}{HOME} (Ctrl-C ends it)" if port else "live page: see the log")
    serve(bundle, ServeSettings(ui=True, max_batch=8, slots=1, threads=1), Place(port=port, drain_s=0))


def _curves(out: Path, seed: int, json_: bool) -> None:
    from splitveil.cli.compare import finish
    from splitveil.errors import UsageError
    from splitveil.experiments.demo import check_demo_folder, comparison_cells

    if seed != 0:
        raise UsageError("expected either --curves or --seed, got both: curves take two seeds of their own")
    check_demo_folder(out)
    finish(comparison_cells(), out / "curves", recipe="tiny", json_=json_)


def _bundle(out: Path) -> Path:
    """A bundle of the demo's CEM run with all that the live page shows; made once."""
    from splitveil.cli.common import progress_bar
    from splitveil.experiments.demo import BUNDLE
    from splitveil.export.bundle import export
    from splitveil.export.live import LIVE, write_live
    from splitveil.records import RunRecord

    folder, record = out / BUNDLE, RunRecord.open(out / "cem")
    if not folder.exists():
        export(record, folder, name="digits", observer=progress_bar("bundle"))
    if not (folder / LIVE).exists():
        write_live(folder, record, RunRecord.open(out / "none"))
    return folder
