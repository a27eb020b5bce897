"""``splitveil certify``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitveil.cli.common import echo_json, print_table, progress_bar, trust
from splitveil.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from splitveil.certificates.backwards import TargetRecord
    from splitveil.certificates.card import Card, StatementRecord
    from splitveil.records import RunRecord


def certify(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold them.")],
    observations: Annotated[int, typer.Option(min=1, help="Fresh releases of one picture that an attacker holds.")] = 1,
    among: Annotated[
        list[int] | None,
        typer.Option(min=2, help="Pictures that an attacker chooses among; may be given several times."),
    ] = None,
    fisher: Annotated[bool, typer.Option("--fisher", help="Bounds from slopes too; they take minutes.")] = False,
    entropy_nats: Annotated[
        float | None, typer.Option(help="A lower bound on the entropy of dithered pictures that you vouch for.")
    ] = None,
    target_nats: Annotated[
        float | None, typer.Option(help="Instead of a card: the noise under which a release tells at most so much.")
    ] = None,
    target_identification: Annotated[
        float | None, typer.Option(help="The noise under which an attacker is right at most so often; with --among.")
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option(
            help="The noise under which no mean squared error is less than that of this PSNR, dB; an estimate."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """What no attacker can beat, and the attacks against it: exits with 1 if an attack beats a certificate."""
    from splitveil.certificates.run import GALLERIES, certify_run
    from splitveil.certificates.slopes import SlopeSettings
    from splitveil.records import RunRecord

    trust(model)
    records = RunRecord.gather(runs)
    shared: dict[str, Any] = {"observations": observations, "seed": seed, "device": device, "trusted": model}
    targets = {"nats": target_nats, "identification": target_identification, "psnr_db": target_psnr}
    if any(value is not None for value in targets.values()):
        _find_noise(records, among or [], targets | shared, json_)
        return
    cards = [
        certify_run(
            record,
            galleries=tuple(among) if among else GALLERIES,
            slopes=SlopeSettings() if fisher else None,
            entropy_nats=entropy_nats,
            observer=progress_bar(record.name),
            **shared,
        )
        for record in records
    ]
    if json_:
        echo_json([card.model_dump(mode="json") for card in cards])
    else:
        for card in cards:
            _show(card)
    beaten = [card.run for card in cards if card.status == "violated"]
    if beaten:
        raise CheckFailedError(
            f"an attack beats a certificate of {', '.join(beaten)}: an assumption does not hold; see which one above"
        )


def _find_noise(records: list[RunRecord], among: list[int], wanted: dict[str, Any], json_: bool) -> None:
    """Answer with the noise that a target needs, in place of a card."""
    from splitveil.certificates.backwards import noise_for_target

    if len(among) > 1:
        raise UsageError(f"expected one --among beside a target, got {len(among)}: ask one by one")
    gallery = among[0] if among else None
    needed = [
        noise_for_target(record, among=gallery, observer=progress_bar(record.name), **wanted) for record in records
    ]
    if json_:
        echo_json([item.model_dump(mode="json") for item in needed])
    else:
        for item in needed:
            _show_target(item)


def _show(card: Card) -> None:
    from rich.table import Table

    seen = "one release" if card.observations == 1 else f"{card.observations} releases"
    typer.echo(f"card of {card.run}: attackers hold {seen} of a picture")
    for kind, title in (("certificate", "certified, for every attacker"), ("estimate", "estimated, not a bound")):
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for column in ("by", "what", "", "value", "confidence", "n", "rests on"):
            table.add_column(column, justify="right" if column in ("value", "confidence", "n") else "left")
        for item in card.statements:
            if item.kind == kind:
                table.add_row(*_cells(item))
        if table.row_count:
            print_table(table, width=140)
    table = Table(box=None, pad_edge=False, header_style="bold", title="attacks against bounds", title_justify="left")
    for column in ("bound by", "what", "bound", "reached", "99.9 % limit", "ratio", "", "attack"):
        table.add_column(column, justify="left" if column in ("bound by", "what", "", "attack") else "right")
    for rung in card.sandwich:
        verdict = "holds" if not rung.violated else "VIOLATED" if rung.kind == "certificate" else "void"
        ratio = "-" if rung.ratio is None else f"{rung.ratio:.3g}"
        figures = (f"{value:.4g}" for value in (rung.bound, rung.reached, rung.limit))
        table.add_row(_short(rung.statement), rung.quantity, *figures, ratio, verdict, rung.attack)
    if table.row_count:
        print_table(table, width=140)
    for name, reason in card.skipped.items():
        typer.echo(f"  not said: {name}: {reason}")
    for text in card.assumptions:
        typer.echo(f"  assumed: {text}")


def _cells(item: StatementRecord) -> list[str]:
    value = f"{item.value:.4g}{' ' + item.unit if item.unit else ''}"
    certain = "-" if item.confidence == 1.0 else f"{item.confidence:.1%}"
    return [item.name, item.quantity, item.relation, value, certain, str(item.n or "-"), _short(item.basis)]


def _short(text: str) -> str:
    return text.split(", ")[0] if "entropy of pictures" in text else text


def _show_target(found: TargetRecord) -> None:
    from rich.table import Table

    typer.echo(f"{found.run}: {found.target} needs a release to tell at most {found.information_nats:.4g} nats")
    if found.rests_on is not None:
        typer.echo(f"  an estimate, as it rests on {found.rests_on}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("by", "noise_std", "then tells, nats", "holds for", "holds while training"):
        table.add_column(column, justify="right" if column in ("noise_std", "then tells, nats") else "left")
    for item in found.needed:
        noise = "no noise does" if item.noise_std is None else f"{item.noise_std:.4g}"
        table.add_row(item.method, noise, f"{item.information_nats:.4g}", item.holds_for, "yes" if item.keeps else "no")
    print_table(table, width=140)
    needs = "" if found.utility_floor_nats is None else f"; its accuracy needs {found.utility_floor_nats:.3g} nats"
    typer.echo(f"  now: noise_std {found.noise_now:.4g}{needs}")
    if found.utility_floor_nats is not None and found.information_nats < found.utility_floor_nats:
        typer.echo("  the target lies below what the accuracy needs: no defense keeps both")
    if found.noise_for_training is not None:
        noise = _rounded_up(found.noise_for_training)
        typer.echo(f"  to train under it:  splitveil train --defense cem -p noise_std={noise} …")


def _rounded_up(noise_std: float) -> str:
    """To four digits, so that a noise that is just enough stays enough."""
    unit = 10.0 ** (math.floor(math.log10(noise_std)) - 3)
    return f"{math.ceil(noise_std / unit) * unit:.4g}"
