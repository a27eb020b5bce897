"""Certificates as the page shows them: what is certain, what is estimated, and the attacks between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.certificates.card import FILE, Card, Rung, StatementRecord
from splitveil.report.runs import Run
from splitveil.report.wording import DASH, percent, scalar

__all__ = ["CardView", "cards"]

_UNITS = {"probability": "", "": ""}


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One statement: its name, what it bounds, its value, and what it rests on."""

    name: str
    quantity: str
    value: str
    limits: str
    certain: str
    rests_on: str


@dataclass(frozen=True, slots=True)
class RungRow:
    """A bound and the attack that came nearest; `outcome` is ``pass``, ``fail`` or ``void``."""

    name: str
    quantity: str
    bound: str
    reached: str
    ratio: str
    attack: str
    outcome: str


@dataclass(frozen=True, slots=True)
class CardView:
    """The card of one run, its statements in two bands."""

    label: str
    colour: int
    observations: int
    violated: bool
    certified: tuple[StatementRow, ...]
    estimated: tuple[StatementRow, ...]
    rungs: tuple[RungRow, ...]
    assumptions: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def cards(runs: Sequence[Run]) -> list[CardView]:
    """Those of the runs that were certified."""
    return [_card(run, Card.read(run.record.path)) for run in runs if (run.record.path / FILE).is_file()]


def _card(run: Run, card: Card) -> CardView:
    return CardView(
        label=run.label,
        colour=run.colour,
        observations=card.observations,
        violated=card.status == "violated",
        certified=tuple(_statement(item) for item in card.statements if item.kind == "certificate"),
        estimated=tuple(_statement(item) for item in card.statements if item.kind == "estimate"),
        rungs=tuple(map(_rung, card.sandwich)),
        assumptions=card.assumptions,
        skipped=tuple(sorted(card.skipped.items())),
    )


def _statement(item: StatementRecord) -> StatementRow:
    limits = "" if item.low is None or item.high is None else f"{scalar(item.low)} to {scalar(item.high)}"
    sign = {"<=": "at most", ">=": "at least"}[item.relation]
    return StatementRow(
        name=item.name,
        quantity=item.quantity,
        value=f"{sign} {scalar(item.value)} {_UNITS.get(item.unit, item.unit)}".strip(),
        limits=limits,
        certain=DASH if item.confidence == 1.0 else f"{percent(item.confidence)} %",
        rests_on=item.basis,
    )


def _rung(rung: Rung) -> RungRow:
    beaten = "fail" if rung.kind == "certificate" else "void"
    return RungRow(
        name=rung.statement,
        quantity=rung.quantity,
        bound=scalar(rung.bound),
        reached=scalar(rung.reached),
        ratio=DASH if rung.ratio is None else f"{rung.ratio:.3g}",
        attack=rung.attack,
        outcome=beaten if rung.violated else "pass",
    )
