"""``splitveil audit``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitveil.cli.common import echo_json, progress_bar, trust
from splitveil.errors import CheckFailedError

if TYPE_CHECKING:
    from splitveil.audit.record import AuditRecord
    from splitveil.records import AttackResult
    from splitveil.training.observer import Observer


def audit(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold runs.")],
    suite: Annotated[str, typer.Option(help="quick, standard or strong; see  splitveil list suites.")] = "standard",
    recipe: Annotated[str | None, typer.Option(help="tiny, quick or full; tiny for the digits, else quick.")] = None,
    threat: Annotated[str, typer.Option(help="white_box, black_box, pairs_only or query_free.")] = "white_box",
    observations: Annotated[int, typer.Option(min=1, help="Releases of one picture that an attacker sees.")] = 1,
    duplicates: Annotated[
        str, typer.Option(help="exact: of the same bytes; near: of almost the same picture.")
    ] = "exact",
    auxiliary: Annotated[
        str, typer.Option(help="same, train, shifted or none: where attackers' pictures come from.")
    ] = "same",
    shift: Annotated[
        str | None, typer.Option(help="With shifted: corruptions, held_out_classes, or another data set.")
    ] = None,
    undefended: Annotated[
        Path | None,
        typer.Option(help="The undefended run of the same data and model; found among the runs if it is there."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the attacks.")] = 0,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 unless every audit is valid.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Try every attack of a suite that a threat model grants, and report the worst over all of them."""
    from splitveil.audit.run import audit_run, find_undefended
    from splitveil.experiments.api import default_recipe
    from splitveil.experiments.recipes import load_recipe
    from splitveil.records import RunRecord
    from splitveil.threats import ThreatModel

    trust(model)
    granted = ThreatModel.from_json(
        {
            **ThreatModel.preset(threat).to_json(),
            "observations": observations,
            "duplicates": duplicates,
            "auxiliary": auxiliary,
            "shift": shift,
        }
    )
    records = RunRecord.gather(runs)
    beside = [RunRecord.open(undefended)] if undefended is not None else records
    found = [
        audit_run(
            record,
            suite=suite,
            recipe=load_recipe(recipe or default_recipe(record.spec.data.source)),
            threat=granted,
            seed=seed,
            undefended=find_undefended(record, beside),
            observe=partial(_bar, record.name),
            device=device,
            trusted=model,
        )
        for record in records
    ]
    if json_:
        echo_json([item.model_dump(mode="json") for item in found])
    else:
        for item in found:
            _show(item)
    unsound = [item.subject for item in found if item.status != "valid"]
    if strict and unsound:
        raise CheckFailedError(f"the audit of {', '.join(unsound)} is not valid: see its controls")


def _bar(name: str, part: str) -> Observer:
    return progress_bar(f"{name}: {part}")


def _show(found: AuditRecord) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("attack", "MSE", "PSNR dB", "SSIM", "needs", "queries", "converged"):
        table.add_column(column, justify="left" if column in ("attack", "needs") else "right")
    for attack in sorted(found.attacks, key=lambda item: item.metrics["mse"].mean):
        table.add_row(*_row(attack))
    typer.echo(f"audit of {found.subject}: suite {found.suite}, {found.pictures} pictures")
    if found.status != "valid":
        typer.echo(f"{found.status.upper()}: see the controls below before you read a number")
    Console(width=140).print(table)
    for name, reason in found.skipped.items():
        typer.echo(f"  not run: {name}, {reason}")
    for name, worst in found.worst.items():
        score = worst.result
        holds = ", ".join(worst.cheapest_needs) or "nothing"
        typer.echo(f"  worst {name} {score.mean:.4f} [{score.low:.4f}, {score.high:.4f}], had for {holds}")
    for control in found.controls:
        typer.echo(f"  {control.state:<14} {control.title}: {control.detail}")


def _row(attack: AttackResult) -> list[str]:
    from splitveil.audit.judging import needs_of

    cells = [
        f"{(item := attack.metrics[name]).mean:.{digits}f} ±{(item.high - item.low) / 2:.{digits}f}"
        for name, digits in (("mse", 4), ("psnr", 2), ("ssim", 3))
    ]
    learned = {True: "yes", False: "no", None: "-"}[attack.converged]
    return [_label(attack), *cells, ", ".join(needs_of(attack)), str(attack.facts["queries"]), learned]


def _label(attack: AttackResult) -> str:
    told = {key: value for key, value in attack.attack.params.items() if isinstance(value, str)}
    return " ".join([attack.attack.name, *told.values()])
