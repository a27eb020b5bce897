"""Audits as the page shows them: every attack that was tried, the worst, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.audit.record import FILE, AuditRecord
from splitveil.records import AttackResult
from splitveil.report.runs import METRIC_NAMES, Run, check_threats
from splitveil.report.tables import Cell
from splitveil.report.validity import Check
from splitveil.report.wording import DASH, INVALID, amount, interval, joined, scalar

__all__ = ["Audit", "audits"]

_OUTCOMES = {"pass": "pass", "fail": "fail", "not applicable": "unchecked"}


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One attack: its name, its scores by metric, what its attacker holds, and whether it converged."""

    label: str
    cells: tuple[Cell, ...]
    needs: str
    converged: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit of one run.

    Args:
        status: ``valid``, ``unproven`` or ``invalid``.
        rows: attacks, the most damaging first.
        cheapest: the cheapest attacker who reaches the worst error, as a sentence's end; empty if there is nothing.
        skipped: what the threat model did not let run.
    """

    label: str
    colour: int
    suite: str
    status: str
    pictures: str
    rows: tuple[AuditRow, ...]
    cheapest: str
    skipped: tuple[tuple[str, str], ...]
    checks: tuple[Check, ...]


def audits(runs: Sequence[Run]) -> list[Audit]:
    """Those of the runs that were audited."""
    return [_audit(run, _read(run)) for run in runs if (run.record.path / FILE).is_file()]


def _read(run: Run) -> AuditRecord:
    found = AuditRecord.read(run.record.path)
    check_threats([found.threat, *(attack.threat for attack in found.attacks)], str(run.record.path / FILE))
    return found


def _audit(run: Run, found: AuditRecord) -> Audit:
    ordered = sorted(found.attacks, key=lambda attack: attack.metrics["mse"].mean)
    worst = found.worst.get("mse")
    return Audit(
        label=run.label,
        colour=run.colour,
        suite=found.suite,
        status=found.status,
        pictures=scalar(found.pictures),
        rows=tuple(_row(attack, found) for attack in ordered),
        cheapest=joined(list(worst.cheapest_needs)) or "nothing" if worst else "",
        skipped=tuple(sorted(found.skipped.items())),
        checks=tuple(
            Check(item.title, _OUTCOMES[item.state], item.detail)  # type: ignore[arg-type]
            for item in found.controls
        ),
    )


def _row(attack: AttackResult, found: AuditRecord) -> AuditRow:
    cells = []
    for name in METRIC_NAMES:
        result = attack.metrics.get(name)
        is_worst = name in found.worst and found.worst[name].attack == attack.key
        if found.status == "invalid":
            cells.append(Cell(INVALID, "", "invalid"))
        else:
            cells.append(Cell(amount(name, result), interval(name, result), "best" if is_worst else ""))
    told = [value for value in attack.attack.params.values() if isinstance(value, str)]
    learned = DASH if attack.converged is None else scalar(attack.converged)
    return AuditRow(" ".join([attack.attack.name, *told]), tuple(cells), joined(list(found.needs[attack.key])), learned)
