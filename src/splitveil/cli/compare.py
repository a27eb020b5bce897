"""``splitveil compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitveil.cli.common import echo_json, parse_grid, parse_options, print_table, trust
from splitveil.cli.engines import Address, CpusPerRun, EngineName, GpusPerRun, Retries, make_engine
from splitveil.errors import CheckFailedError

if TYPE_CHECKING:
    from splitveil.experiments.compare.plan import Cell
    from splitveil.experiments.compare.record import ComparisonRecord, Interval, PointRecord
    from splitveil.experiments.engines.jobs import Engine
    from splitveil.threats import ThreatModel

_CURES = {
    "no overlap": "move the grids towards each other",
    "no shared seed": "run again what failed",
    "controls not beaten": "raise  -p epochs=…, or move the grid towards less noise",
}


def compare(
    defenses: Annotated[list[str], typer.Argument(help="See  splitveil list defenses; none is the control.")],
    out: Annotated[Path, typer.Option(help="Folder: new, or an earlier comparison's to go on with.")],
    data: Annotated[str, typer.Option(help="See  splitveil train --help.")] = "digits",
    recipe: Annotated[str | None, typer.Option(help="tiny, quick or full; tiny for the digits, else quick.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds per point.")] = 3,
    grid: Annotated[
        list[str] | None, typer.Option(help="noise_std=0.05,0.1 for all that have it; cem.weight=0.1,0.4 for one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See  splitveil list models.")] = None,
    model_param: Annotated[list[str] | None, typer.Option(help="Of the model: width=0.25.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Of the training: epochs=10.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="Of the attack: epochs=50.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most pictures to use.")] = None,
    weights: Annotated[Path | None, typer.Option(help="To start every run from, see  splitveil train --help.")] = None,
    freeze_tail: Annotated[bool, typer.Option(help="Leave the cloud's part as the weights have it.")] = False,
    stream: Annotated[bool | None, typer.Option(help="See  splitveil train --help.")] = None,
    threat: Annotated[str, typer.Option(help="white_box, black_box, pairs_only or query_free.")] = "white_box",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core, or one on a GPU.")] = None,
    engine: EngineName = None,
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    retries: Retries = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if a control or a run failed.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Trade accuracy against leakage for several defenses over a grid, and say which is better at equal accuracy."""
    from splitveil.data.sources import guess_source
    from splitveil.experiments.api import default_recipe
    from splitveil.experiments.compare.api import plan_cells
    from splitveil.threats import ThreatModel

    granted = ThreatModel.preset(threat)
    trusted = trust(model)
    chosen = make_engine(
        engine,
        workers=workers,
        device=device,
        address=address,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
        retries=retries,
    )
    scale = recipe or default_recipe(guess_source(data)[0])
    cells = plan_cells(
        defenses,
        data=data,
        grid=parse_grid(grid or []),
        seeds=seeds,
        recipe=scale,
        threat=granted,
        model=model,
        model_kwargs=parse_options(model_param or []),
        training={**parse_options(set_ or []), **({"freeze_tail": True} if freeze_tail else {})},
        attack=parse_options(param or []),
        limit=limit,
        weights=weights,
        stream=stream,
    )
    finish(cells, out, recipe=scale, json_=json_, threat=granted, engine=chosen, strict=strict, trusted=trusted)


def finish(
    cells: Sequence[Cell],
    out: Path,
    *,
    recipe: str,
    json_: bool,
    threat: ThreatModel | None = None,
    engine: Engine | None = None,
    trusted: str | None = None,
    strict: bool = False,
) -> None:
    """Run the cells, write the page, and print what came out."""
    from splitveil.cli.board import make_board
    from splitveil.experiments.compare.api import compare as run_comparison
    from splitveil.report.comparison import build_comparison_report

    with make_board(len(cells)) as board:
        record = run_comparison(cells, out, board=board, recipe=recipe, threat=threat, engine=engine, trusted=trusted)
    page = build_comparison_report(record, out, out / "report.html")
    if json_:
        echo_json({"report": str(page), **record.model_dump(mode="json")})
    else:
        _show(record)
        typer.echo(f"report: {page}")
    if strict and record.failed:
        raise CheckFailedError(f"{len(record.failed)} of {len(cells)} runs failed")
    if strict and record.status != "valid":
        raise CheckFailedError(f"this comparison is {record.status}: it proves nothing")


def _show(record: ComparisonRecord) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("point", "accuracy %", "attacker MSE", "PSNR dB", "converged", "on its curve"):
        table.add_column(column, justify="left" if column == "point" else "right")
    for point in record.points:
        table.add_row(
            _label(point, record),
            _pm(point.accuracy, 100, 1),
            _pm(point.mse, 1, 4) if point.beats_controls else "INVALID",
            f"{point.psnr_db:.2f}" if point.beats_controls else "INVALID",
            _share(point.converged_share) + (" !" if point.unconverged else ""),
            "yes" if point.selected else "no",
        )
    if record.status != "valid":
        typer.echo(f"{record.status.upper()}: nothing here is evidence, see the controls below")
    print_table(table, width=120)
    if any(point.unconverged for point in record.points):
        typer.echo("! an attacker still learned when its budget ended: the true error is smaller; raise  -p epochs=…")
    for delta in record.deltas:
        if record.status == "invalid":
            typer.echo(f"{delta.other} over {delta.reference}: INVALID")
            continue
        if delta.mse_db is None:
            typer.echo(f"{delta.other} over {delta.reference}: {delta.verdict}; {_CURES[delta.verdict]}")
            continue
        low, high = delta.accuracy_range or (0.0, 0.0)
        typer.echo(
            f"{delta.other} over {delta.reference}: {_range(delta.mse_db, 'dB of attacker MSE')} at equal accuracy"
            f" ({100 * low:.1f} to {100 * high:.1f} %)"
            + (f", {_range(delta.accuracy_points, 'accuracy points')} at equal MSE" if delta.accuracy_points else "")
            + ("" if delta.certain else "; the interval holds 0, so neither is shown to be better")
        )
        if delta.unconverged:
            typer.echo(f"  ! {_share(delta.converged_share)} of the attackers behind it had converged")
        if delta.rarely_shared:
            typer.echo(f"  in {100 * delta.overlapping_share:.0f} % of the resamples alone: an uncertain range")
    typer.echo(f"{_share(record.converged_share)} of the attackers had converged")
    for check in record.checks:
        typer.echo(f"{check.outcome}: {check.title}; {check.detail}")
    for name, error in record.failed.items():
        typer.echo(f"failed: {name}: {error}")


def _label(point: PointRecord, record: ComparisonRecord) -> str:
    """Its label, and how many seeds it has where some failed."""
    count, wanted = len(point.runs), len(record.seeds)
    return point.label if count == wanted else f"{point.label} ({count} of {wanted} seeds)"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _pm(value: Interval, scale: float, digits: int) -> str:
    return f"{value.mean * scale:.{digits}f} ±{(value.high - value.low) / 2 * scale:.{digits}f}"


def _range(value: Interval, unit: str) -> str:
    return f"{value.mean:+.2f} {unit} [{value.low:+.2f}, {value.high:+.2f}]"
