"""Certificates as the page shows them: what is certain, what is estimated, and the attacks between."""

from __future__ import annotations

import math
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
    """A bound and the attack that came nearest.

    Args:
        basis: what an estimate rests on, in few words.
        certified: which band it lies in.
        outcome: ``pass``, ``fail`` or ``void``.
        place: of the attack, from 0 where it touches the bound to 100 at the end of the scale; None without a ratio.
    """

    name: str
    basis: str
    quantity: str
    bound: str
    reached: str
    ratio: str
    attack: str
    outcome: str
    certified: bool
    place: float | None


@dataclass(frozen=True, slots=True)
class CardView:
    """The card of one run, its statements in two bands.

    Args:
        decades: that the scale of `RungRow.place` spans: how many times the attack is off the bound, by powers of ten.
    """

    label: str
    colour: int
    observations: int
    violated: bool
    certified: tuple[StatementRow, ...]
    estimated: tuple[StatementRow, ...]
    rungs: tuple[RungRow, ...]
    decades: int
    assumptions: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def cards(runs: Sequence[Run]) -> list[CardView]:
    """Those of the runs that were certified."""
    known = [(run, Card.read(run.record.path)) for run in runs if (run.record.path / FILE).is_file()]
    ratios = [rung.ratio for _, card in known for rung in card.sandwich if rung.ratio is not None]
    decades = max(1, math.ceil(math.log10(max(1.0, *ratios)))) if ratios else 1
    return [_card(run, card, decades) for run, card in known]


def _card(run: Run, card: Card, decades: int) -> CardView:
    return CardView(
        label=run.label,
        colour=run.colour,
        observations=card.observations,
        violated=card.status == "violated",
        certified=tuple(_statement(item) for item in card.statements if item.kind == "certificate"),
        estimated=tuple(_statement(item) for item in card.statements if item.kind == "estimate"),
        rungs=tuple(
            _rung(rung, decades) for rung in sorted(card.sandwich, key=lambda rung: rung.kind != "certificate")
        ),
        decades=decades,
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


def _rung(rung: Rung, decades: int) -> RungRow:
    off = None if rung.ratio is None else 100 * math.log10(max(rung.ratio, 1.0)) / decades
    beaten = "fail" if rung.kind == "certificate" else "void"
    name, _, basis = rung.statement.partition(" (")
    return RungRow(
        name=name,
        basis=basis.removesuffix(")").split(", ")[0],
        quantity=rung.quantity,
        bound=scalar(rung.bound),
        reached=scalar(rung.reached),
        ratio=DASH if rung.ratio is None else f"{rung.ratio:.3g}",
        attack=rung.attack,
        outcome=beaten if rung.violated else "pass",
        certified=rung.kind == "certificate",
        place=None if off is None else round(min(off, 100.0), 1),
    )
