"""What an audit found, as it is written: ``audit.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from splitveil.records import AttackResult, FiledRecord, MetricResult
from splitveil.specs import Frozen

__all__ = ["FILE", "AuditRecord", "ControlResult", "Status", "Worst"]

FILE = "audit.json"

Status = Literal["valid", "unproven", "invalid"]


class ControlResult(Frozen):
    """A control and what came of it; `detail` is the evidence, or why it does not apply."""

    name: str
    title: str
    state: Literal["pass", "fail", "not applicable"]
    detail: str


class Worst(Frozen):
    """The least safe score of one metric over all attackers.

    Args:
        attack: key of the attack that took it.
        result: its score.
        cheapest: key of the attack that needs least among those that do as well within its interval.
        cheapest_needs: what that attacker must hold.
    """

    attack: str
    result: MetricResult
    cheapest: str
    cheapest_needs: tuple[str, ...]


class AuditRecord(FiledRecord):
    """One audit: everything that a threat model grants was tried, and the least safe score counts.

    Args:
        subject: what was audited.
        suite: its name.
        budget: what the suite costs.
        threat: what the attackers were granted.
        adaptive: the attack that knows the defense; where several know parts of it, commas between them.
        seed: of all attacks.
        pictures: that scores are taken on.
        attacks: every attack that ran.
        needs: by attack, what its attacker must hold.
        recognition_ceiling: how many of the originals the judge recognises that looks at reconstructions; None
            without labels.
        skipped: what did not run, and why.
        worst: by metric.
        controls: beside the scores.
        status: ``invalid`` if a control failed; ``unproven`` if none shows that the attacks work; else ``valid``.
        queries: releases that all attackers asked for.
        elapsed_s: of the audit; attacks that were there already cost nothing.
    """

    file: ClassVar[str] = FILE
    what: ClassVar[str] = "an audit"
    command: ClassVar[str] = "audit"

    format: Literal[1] = 1
    subject: str
    suite: str
    budget: str
    threat: dict[str, Any]
    adaptive: str
    seed: int
    pictures: int
    attacks: tuple[AttackResult, ...]
    needs: dict[str, tuple[str, ...]]
    recognition_ceiling: MetricResult | None = None
    skipped: dict[str, str]
    worst: dict[str, Worst]
    controls: tuple[ControlResult, ...]
    status: Status
    queries: int
    elapsed_s: float

    def attack(self, key: str) -> AttackResult:
        """The attack of this key."""
        return next(item for item in self.attacks if item.key == key)
