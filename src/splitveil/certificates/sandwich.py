"""Bounds below, attacks above: what attacks reached, held against what no attack can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from splitveil.certificates.card import Rung, StatementRecord
from splitveil.records import RunRecord
from splitveil.threats import ThreatModel

__all__ = ["Reached", "build_sandwich", "reached_by_attacks"]

_ONE_SIDED = 3.0902  # standard normal quantile of 99.9 %


@dataclass(frozen=True, slots=True)
class Reached:
    """What an attack did, per picture.

    Args:
        attack: what to call it.
        quantity: as in a statement.
        values: ``(n,)``.
        observations: releases of one picture that it saw.
    """

    attack: str
    quantity: str
    values: NDArray[np.float64]
    observations: int = 1

    @property
    def mean(self) -> float:
        """Over pictures."""
        return float(self.values.mean())

    def limit(self, side: float) -> float:
        """One-sided 99.9 % limit of the mean: the upper one for side 1, the lower one for side -1."""
        error = float(self.values.std(ddof=1)) / math.sqrt(len(self.values)) if len(self.values) > 1 else math.inf
        return self.mean + side * _ONE_SIDED * error


def reached_by_attacks(record: RunRecord) -> list[Reached]:
    """The error of every attack on a run that saw fresh releases of the very same picture, or one release.

    Near duplicates are not among them: their features differ, so that a bound for fresh releases of one picture does
    not hold for them.
    """
    found: list[Reached] = []
    for attack in record.attacks:
        threat = ThreatModel.from_json(attack.threat)
        if threat.observations > 1 and threat.duplicates == "near":
            continue
        errors = load_file(record.path / attack.samples)["mse"].astype(np.float64)
        found.append(Reached(attack.attack.name, "mse", errors, threat.observations))
    return found


def build_sandwich(statements: Sequence[StatementRecord], reached: Sequence[Reached]) -> tuple[Rung, ...]:
    """Each statement beside the attack that came nearest to it, among those that saw no more than it allows.

    A certificate is violated where the one-sided 99.9 % limit of an attack's mean lies beyond it: then one of its
    assumptions does not hold. An estimate that is beaten so is void.
    """
    rungs: list[Rung] = []
    for statement in statements:
        able = [
            item
            for item in reached
            if item.quantity == statement.quantity and item.observations <= statement.observations
        ]
        if not able or (statement.quantity == "information" and statement.relation == ">="):
            continue
        rungs.append(_rung(statement, able))
    return tuple(rungs)


def _rung(statement: StatementRecord, able: Sequence[Reached]) -> Rung:
    least = statement.relation == ">="  # attacks come from above
    best = min(able, key=lambda item: item.mean) if least else max(able, key=lambda item: item.mean)
    limit = best.limit(1.0 if least else -1.0)
    violated = limit < statement.secure if least else limit > statement.value
    lower, upper = (statement.value, best.mean) if least else (best.mean, statement.value)
    return Rung(
        kind=statement.kind,
        statement=statement.name if not statement.rests_on else f"{statement.name} ({statement.rests_on})",
        quantity=statement.quantity,
        bound=statement.value,
        attack=best.attack,
        reached=best.mean,
        limit=limit,
        ratio=upper / lower if lower > 0 else None,
        violated=violated,
        n=len(best.values),
    )
