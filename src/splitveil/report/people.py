"""Audits of identities as the page shows them: how often people are found, between chance and the raw pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.audit.people_record import PEOPLE_FILE, PeopleRecord
from splitveil.records import MetricResult
from splitveil.report.runs import Run
from splitveil.report.wording import joined, percent, scalar

__all__ = ["PeopleRow", "people"]

_NAMED = 5


@dataclass(frozen=True, slots=True)
class PeopleRow:
    """One run: percentages as text, and the same as places on a scale from 0 to 100.

    Args:
        found: how often a person is found, and its interval over people.
        most: who is found most often.
    """

    label: str
    colour: int
    found: str
    interval: str
    chance: str
    ceiling: str
    place: float
    low: float
    high: float
    chance_place: float
    ceiling_place: float
    most: str
    told: str


def people(runs: Sequence[Run]) -> list[PeopleRow]:
    """Those of the runs in which people were looked for."""
    return [_row(run, PeopleRecord.read(run.record.path)) for run in runs if (run.record.path / PEOPLE_FILE).is_file()]


def _row(run: Run, record: PeopleRecord) -> PeopleRow:
    score, sizes = record.by_person, sorted(set(record.galleries))
    gallery = joined([scalar(size) for size in sizes])
    return PeopleRow(
        label=run.label,
        colour=run.colour,
        found=percent(score.mean),
        interval=_interval(score),
        chance=percent(record.chance),
        ceiling=percent(record.ceiling.mean),
        place=_place(score.mean),
        low=_place(score.low),
        high=_place(score.high),
        chance_place=_place(record.chance),
        ceiling_place=_place(record.ceiling.mean),
        most=", ".join(f"{person.name} {percent(person.found)} %" for person in record.people[:_NAMED]),
        told=f"{scalar(len(record.people))} people, {scalar(record.found.n)} pictures, galleries of {gallery} people "
        f"with {scalar(record.gallery)} known release{'s' if record.gallery != 1 else ''} each",
    )


def _interval(score: MetricResult) -> str:
    return f"{percent(score.low)} to {percent(score.high)}"


def _place(share: float) -> float:
    return round(100 * min(max(share, 0.0), 1.0), 2)
