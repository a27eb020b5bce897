"""What was assumed, what failed its control, and what was not tried: gathered from all over the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.report.audits import Audit
from splitveil.report.cards import CardView
from splitveil.report.runs import Run
from splitveil.report.validity import Check, Judgement
from splitveil.report.wording import joined

__all__ = ["Caveat", "Caveats", "caveats"]


@dataclass(frozen=True, slots=True)
class Caveat:
    """One thing, and the runs that it is about; none for all."""

    text: str
    runs: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """The runs as words."""
        return joined(list(self.runs))


@dataclass(frozen=True, slots=True)
class Caveats:
    """What weakens the page, in three lists."""

    failed: tuple[Caveat, ...]
    assumed: tuple[Caveat, ...]
    open: tuple[Caveat, ...]


def caveats(
    runs: Sequence[Run],
    judgements: Sequence[Judgement],
    checks: Sequence[Check],
    audits: Sequence[Audit],
    cards: Sequence[CardView],
) -> Caveats:
    """Gather them; the same thing about several runs is said once."""
    failed, assumed, left = list[tuple[str, str]](), list[tuple[str, str]](), list[tuple[str, str]]()
    for check in checks:
        if check.outcome == "fail":
            failed.append((f"{check.title}: no. {check.detail}", ""))
        elif check.outcome in ("unclear", "unchecked"):
            left.append((f"{check.title}: {check.outcome}. {check.detail}", ""))
    for run, judgement in zip(runs, judgements, strict=True):
        if judgement.status == "invalid":
            failed.append((f"Its scores are INVALID: {judgement.reason}.", run.label))
        slow = [run.name_of(attack) for attack in run.attacks if attack.converged is False]
        left += [(f"The attack {name} still learned when its budget ended.", run.label) for name in slow]
    for audit in audits:
        failed += [(f"{item.title}: {item.detail}", audit.label) for item in audit.checks if item.outcome == "fail"]
        left += [(f"The attack {name} was not run: {reason}.", audit.label) for name, reason in audit.skipped]
    for card in cards:
        beaten = [rung for rung in card.rungs if rung.outcome != "pass"]
        failed += [(f"{rung.attack} beat the bound {rung.name} on {rung.quantity}.", card.label) for rung in beaten]
        assumed += [(text, card.label) for text in card.assumptions]
        assumed += [(f"estimate: {row.rests_on}", card.label) for row in card.estimated if row.rests_on]
        left += [(f"Not said by {name}: {reason}.", card.label) for name, reason in card.skipped]
    return Caveats(_merged(failed), _merged(assumed), _merged(left))


def _merged(found: Sequence[tuple[str, str]]) -> tuple[Caveat, ...]:
    runs: dict[str, list[str]] = {}
    for text, label in found:
        named = runs.setdefault(text, [])
        if label and label not in named:
            named.append(label)
    return tuple(Caveat(text, tuple(labels)) for text, labels in runs.items())
