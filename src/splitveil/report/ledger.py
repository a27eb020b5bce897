"""The information ledger: what a release may tell, run by run, as training ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitveil.certificates.card import FILE, Card
from splitveil.report.runs import Run
from splitveil.report.wording import DASH, scalar

__all__ = ["FACTS", "Ledger", "ledger"]

FACTS = {
    "held_out_nats": "held out, mean",
    "upper_nats": "held out, 99.9 % limit",
    "ceiling_nats": "ceiling of the channel",
    "theorem2_nats": "Theorem 2, in sample: no bound",
    "feature_std": "spread of features",
    "noise_std": "noise",
    "snr_db": "signal to noise, dB",
}


@dataclass(frozen=True, slots=True)
class Ledger:
    """A table: facts by run.

    Args:
        runs: label and colour, the columns.
        rows: what, and the value of each run.
    """

    runs: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def ledger(runs: Sequence[Run]) -> Ledger | None:
    """The last epoch's facts of each run, then the tightest certificate on information; None where there are none."""
    known = [(run, _last(run), _certified(run)) for run in runs]
    told = [(run, facts, certified) for run, facts, certified in known if facts or certified is not None]
    if not told:
        return None
    rows = [(name, tuple(_text(facts.get(key)) for _, facts, _ in told)) for key, name in FACTS.items()]
    rows.append(("certified, at most", tuple(_text(certified) for _, _, certified in told)))
    return Ledger(
        runs=tuple((run.label, run.colour) for run, _, _ in told),
        rows=tuple(row for row in rows if any(value != DASH for value in row[1])),
    )


def _last(run: Run) -> dict[str, Any]:
    """The facts that any penalty wrote of information, from the last epoch that has them."""
    found: dict[str, Any] = {}
    for epoch in run.epochs:
        facts = epoch.get("facts")
        for values in facts.values() if isinstance(facts, Mapping) else ():
            if isinstance(values, Mapping):
                found |= {key: values[key] for key in FACTS if key in values}
    return found


def _certified(run: Run) -> float | None:
    if not (run.record.path / FILE).is_file():
        return None
    card = Card.read(run.record.path)
    bounds = [
        item.value
        for item in card.statements
        if (item.kind, item.quantity, item.relation) == ("certificate", "information", "<=")
    ]
    return min(bounds, default=None)


def _text(value: Any) -> str:
    return scalar(value) if isinstance(value, (int, float)) else DASH
