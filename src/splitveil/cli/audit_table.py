"""Audits as text: attacks from the strongest, the worst scores, the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from splitveil.cli.common import print_table

if TYPE_CHECKING:
    from splitveil.audit.people_record import PeopleRecord
    from splitveil.audit.record import AuditRecord
    from splitveil.records import AttackResult

__all__ = ["show_audit", "show_people"]


def show_audit(found: AuditRecord) -> None:
    """Print one audit."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    beyond = sorted({name for attack in found.attacks for name in attack.beyond_pixels})
    for column in ("attack", "MSE", "PSNR dB", "SSIM", *beyond, "needs", "queries", "converged"):
        table.add_column(column, justify="left" if column in ("attack", "needs") else "right")
    for attack in sorted(found.attacks, key=lambda item: item.metrics["mse"].mean):
        table.add_row(*_row(attack, found.needs[attack.key], beyond))
    typer.echo(f"audit of {found.subject}: suite {found.suite}, {found.pictures} pictures")
    if found.status != "valid":
        typer.echo(f"{found.status.upper()}: see the controls below before you read a number")
    print_table(table, width=140)
    for name, reason in found.skipped.items():
        typer.echo(f"  not run: {name}, {reason}")
    for name, worst in found.worst.items():
        score = worst.result
        holds = ", ".join(worst.cheapest_needs) or "nothing"
        typer.echo(f"  worst {name} {score.mean:.4f} [{score.low:.4f}, {score.high:.4f}], had for {holds}")
    if found.recognition_ceiling is not None:
        typer.echo(f"  recognised of the originals: {found.recognition_ceiling.mean:.3f}")
    for control in found.controls:
        typer.echo(f"  {control.state:<14} {control.title}: {control.detail}")


def show_people(found: PeopleRecord) -> None:
    """Print how often people were found again."""
    score = found.by_person
    typer.echo(
        f"people of {found.subject}: found {score.mean:.1%} [{score.low:.1%}, {score.high:.1%}] of the time, "
        f"chance {found.chance:.1%}, from the raw pictures {found.ceiling.mean:.1%}; "
        f"galleries of {max(found.galleries)} people"
    )


def _row(attack: AttackResult, needs: Sequence[str], beyond: Sequence[str]) -> list[str]:
    cells = [
        f"{(item := attack.metrics[name]).mean:.{digits}f} ±{(item.high - item.low) / 2:.{digits}f}"
        for name, digits in (("mse", 4), ("psnr", 2), ("ssim", 3))
    ]
    learned = {True: "yes", False: "no", None: "-"}[attack.converged]
    judged = [attack.beyond_pixels.get(name) for name in beyond]
    more = ["-" if score is None else f"{score.mean:.3f}" for score in judged]
    return [_label(attack), *cells, *more, ", ".join(needs), str(attack.facts["queries"]), learned]


def _label(attack: AttackResult) -> str:
    told = {key: value for key, value in attack.attack.params.items() if isinstance(value, str)}
    return " ".join([attack.attack.name, *told.values()])
