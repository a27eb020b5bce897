"""Bounds below, attacks above: what attacks reached, held against what no attack can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from splitveil.certificates.card import Rung, StatementRecord
from splitveil.certificates.harm import accuracy_limit
from splitveil.experiments.storage import attack_errors
from splitveil.records import RunRecord
from splitveil.threats import ThreatModel

__all__ = ["Reached", "build_sandwich", "reached_by_attacks"]

_TAIL = 0.001  # by which an attack that a bound holds for seems to beat it, all attacks on it together


@dataclass(frozen=True, slots=True)
class Reached:
    """What an attack did, per picture.

    Args:
        attack: what to call it.
        quantity: as in a statement.
        values: ``(n,)``.
        observations: releases of one picture that it saw.
        before_codec: whether it saw what the mechanism gives out, which may tell more than the bytes that are sent.
    """

    attack: str
    quantity: str
    values: NDArray[np.float64]
    observations: int = 1
    before_codec: bool = False

    @property
    def mean(self) -> float:
        """Over pictures."""
        return float(self.values.mean())

    def limit(self, side: float, tail: float = _TAIL) -> float:
        """One-sided limit of the mean, of at least two pictures: the upper one for side 1, the lower one for side -1.

        Where pictures are either right or wrong, the lower limit is Clopper and Pearson's; else limits are Student's.

        Args:
            side: 1 or -1.
            tail: probability that the mean lies beyond it.
        """
        n = len(self.values)
        if side < 0 and np.isin(self.values, (0.0, 1.0)).all():
            return accuracy_limit(round(float(self.values.sum())), n, 1 - tail)
        error = float(self.values.std(ddof=1)) / math.sqrt(n)
        return self.mean + side * float(stdtrit(n - 1, 1 - tail)) * error


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
        errors = np.asarray(attack_errors(record.path, attack), dtype=np.float64)
        found.append(Reached(attack.attack.name, "mse", errors, threat.observations))
    return found


def build_sandwich(statements: Sequence[StatementRecord], reached: Sequence[Reached]) -> tuple[Rung, ...]:
    """Each statement beside the attack that came nearest to it, among those that saw no more than it allows.

    A certificate is violated where the one-sided limit of an attack's mean lies beyond it, at a level of 99.9 % for all
    attacks on it together: then one of its assumptions does not hold. An estimate that is beaten so is void. An attack
    on a single picture decides nothing.
    """
    rungs: list[Rung] = []
    for statement in statements:
        able = [
            item
            for item in reached
            if item.quantity == statement.quantity
            and item.observations <= statement.observations
            and len(item.values) > 1
            and not (item.before_codec and statement.is_of_payload)
        ]
        if not able or (statement.quantity == "information" and statement.relation == ">="):
            continue
        rungs.append(_rung(statement, able))
    return tuple(rungs)


def _rung(statement: StatementRecord, able: Sequence[Reached]) -> Rung:
    least = statement.relation == ">="  # attacks come from above
    side, tail = (1.0 if least else -1.0), _TAIL / len(able)
    limits = [item.limit(side, tail) for item in able]
    violated = min(limits) < statement.secure if least else max(limits) > statement.value
    places = range(len(able))
    nearest = min(places, key=lambda place: side * (limits[place] if violated else able[place].mean))
    best = able[nearest]
    lower, upper = (statement.value, best.mean) if least else (best.mean, statement.value)
    return Rung(
        kind=statement.kind,
        statement=statement.name if not statement.rests_on else f"{statement.name} ({statement.rests_on})",
        quantity=statement.quantity,
        bound=statement.value,
        attack=best.attack,
        reached=best.mean,
        limit=limits[nearest],
        ratio=upper / lower if lower > 0 else None,
        violated=violated,
        n=len(best.values),
    )
