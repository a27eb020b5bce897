"""``splitveil plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitveil.cli.common import echo_json, parse_options, parse_shape, print_table, trust
from splitveil.cli.engines import Address, CpusPerRun, EngineName, GpusPerRun, Retries, make_engine
from splitveil.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from splitveil.experiments.planning.record import CutRecord, PlanRecord


def plan(
    model: Annotated[
        str, typer.Argument(help="vgg11 (torchvision), timm:resnet18, or package.module:function that takes 'at'.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Pictures to try cuts on, see  splitveil train --help; none trains nothing.")
    ] = None,
    cuts: Annotated[str | None, typer.Option(help="Places, as layer1,layer2; see  splitveil list cuts.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Without --cuts: how many of the front to try.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs, record and page: new, or an earlier plan's to go on with.")
    ] = None,
    bottleneck: Annotated[int, typer.Option(min=0, help="Channels on the wire; 0 leaves the features.")] = 8,
    input_shape: Annotated[str, typer.Option(help="Without --data: channels, rows, columns.")] = "3,224,224",
    classes: Annotated[int, typer.Option(min=2, help="Without --data.")] = 10,
    defense: Annotated[str, typer.Option(help="Under which every cut is trained.")] = "cem",
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="Of the defense: noise_std=0.1.")] = None,
    recipe: Annotated[str | None, typer.Option(help="tiny, quick or full; tiny for the digits, else quick.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cut.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Of the training: epochs=10.")] = None,
    attack_param: Annotated[list[str] | None, typer.Option(help="Of the attack: epochs=50.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most pictures to use.")] = None,
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
    """Say where to cut a network: what each place costs, and with pictures, how accurate and how private it is."""
    if data is not None and out is None:
        raise UsageError("expected --out for the runs beside --data, got none: name a folder")
    from splitveil.experiments.planning.api import plan as run_plan
    from splitveil.report.build import check_out
    from splitveil.report.cuts import build_plan_report

    page = out / "report.html" if out is not None else None
    if page is not None:
        check_out(page)  # before the work, not after it
    common: dict[str, Any] = {
        "at": [name for name in cuts.split(",") if name] if cuts is not None else None,
        "out": out,
        "bottleneck": bottleneck or None,
    }
    if data is None:
        found = run_plan(model, input_shape=parse_shape(input_shape), classes=classes, **common)
    else:
        resources = {"cpus_per_run": cpus_per_run, "gpus_per_run": gpus_per_run, "retries": retries}
        chosen = make_engine(engine, workers=workers, device=device, address=address, **resources)
        tries = _tries(defense, param, recipe, seeds, set_, attack_param, limit, threat)
        found = _on_pictures(model, data, most, chosen, tries, common)
    if page is not None:
        build_plan_report(found, page)
    if json_:
        echo_json(found.model_dump(mode="json"))
    else:
        _show(found)
        if page is not None:
            typer.echo(f"report: {page}")
    _check(found, strict)


def _tries(
    defense: str,
    param: list[str] | None,
    recipe: str | None,
    seeds: int,
    set_: list[str] | None,
    attack_param: list[str] | None,
    limit: int | None,
    threat: str,
) -> Any:
    from splitveil.experiments.planning.api import Tries
    from splitveil.specs import PlugInSpec
    from splitveil.threats import ThreatModel

    return Tries(
        defense=PlugInSpec(name=defense, params=parse_options(param or [])),
        recipe=recipe,
        seeds=seeds,
        training=parse_options(set_ or []),
        attack=parse_options(attack_param or []),
        limit=limit,
        threat=ThreatModel.preset(threat),
    )


def _on_pictures(model: str, data: str, most: int, engine: Any, tries: Any, common: dict[str, Any]) -> PlanRecord:
    from splitveil.cli.board import make_board
    from splitveil.experiments.planning.api import plan as run_plan

    if not model.startswith("timm:"):
        trust(model)
    count = (len(common["at"]) if common["at"] else most) + 1
    with make_board(count * tries.seeds) as board:
        return run_plan(model, data, most=most, engine=engine, tries=tries, board=board, **common)


def _show(found: PlanRecord) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    tried = ("accuracy %", "attacker MSE", "PSNR dB") if found.trial else ()
    for column in (
        "at",
        "front",
        *tried,
        "release",
        "payload bytes",
        "edge parameters",
        "edge multiply-adds",
        "cloud %",
    ):
        table.add_column(column, justify="left" if column in ("at", "release") else "right")
    for cut in found.cuts:
        table.add_row(*_row(cut))
    trial = found.trial
    if trial is not None and trial.status != "valid":
        typer.echo(f"{trial.status.upper()}: see the controls below before you read a number")
    print_table(table, width=140)
    typer.echo(f"* no other cut beats it in all of {', '.join(found.objectives)}")
    if any(cut.point is not None and cut.point.unconverged for cut in found.cuts):
        typer.echo("! an attacker still learned when its budget ended: the true error is smaller")
    if trial is None:
        typer.echo("nothing was trained: add --data and --out for accuracy and privacy")
        return
    for check in trial.checks:
        typer.echo(f"{check.outcome}: {check.title}; {check.detail}")
    for name, error in trial.failed.items():
        typer.echo(f"failed: {name}: {error}")


def _row(cut: CutRecord) -> list[str]:
    figures = [f"{value:,}" for value in (cut.payload_bytes, cut.edge_parameters, cut.edge_multiply_adds)]
    cloud = "-" if cut.cloud_share is None else f"{100 * cut.cloud_share:.1f}"
    tried = []
    if cut.point is not None:
        psnr = f"{cut.point.psnr_db:.2f}" + (" !" if cut.point.unconverged else "")
        errs = [f"{cut.point.mse.mean:.4f}", psnr] if cut.point.beats_controls else ["INVALID", "INVALID"]
        tried = [f"{100 * cut.point.accuracy.mean:.1f}", *errs]
    return [cut.at, "*" if cut.front else "", *tried, " x ".join(map(str, cut.shape)), *figures, cloud]


def _check(found: PlanRecord, strict: bool) -> None:
    trial = found.trial
    if not strict or trial is None:
        return
    if trial.failed:
        raise CheckFailedError(f"{len(trial.failed)} runs failed")
    if trial.status != "valid":
        raise CheckFailedError(f"these trials are {trial.status}: they prove nothing of privacy")
