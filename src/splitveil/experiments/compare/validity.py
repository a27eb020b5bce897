"""Controls of a comparison: what must hold before its curves may be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from splitveil.experiments.compare.record import PointRecord, ValidityCheck

__all__ = ["CONTROLS", "UNDEFENDED", "check_points", "check_undefended", "controls_beaten", "status_of"]

UNDEFENDED = "none"
CONTROLS = ("mean_image", "class_mean", "ridge")
_NOISE = "noise_std"


def check_points(points: Sequence[PointRecord]) -> tuple[ValidityCheck, ...]:
    """Those of `check_undefended`, and that every curve has points on which the attacker beats its controls."""
    curves: dict[str, dict[str, PointRecord]] = {}
    for point in points:
        if point.defense.name != UNDEFENDED:
            curves.setdefault(point.curve, {})[point.label] = point
    return (*check_undefended(points), controls_beaten(curves))


def check_undefended(points: Sequence[PointRecord]) -> tuple[ValidityCheck, ...]:
    """The attack works where it must, the undefended model is the most broken, leakage does not grow with noise."""
    return (_attack_works(points), _undefended_is_most_broken(points), _noise_does_not_help(points))


def status_of(checks: Sequence[ValidityCheck]) -> Literal["valid", "unproven", "invalid"]:
    """What the checks amount to; where the first of them, that the attack works, was not made, nothing is proven."""
    if any(check.outcome == "fail" for check in checks):
        return "invalid"
    return "valid" if checks and checks[0].outcome == "pass" else "unproven"


def _attack_works(points: Sequence[PointRecord]) -> ValidityCheck:
    title = "The attacker beats the mean picture, the class means and ridge on the undefended model"
    undefended = [point for point in points if point.defense.name == UNDEFENDED]
    if not undefended:
        return ValidityCheck(
            title=title, outcome="unchecked", detail="no undefended model stands beside the others: add none"
        )
    point = undefended[0]
    if not point.beats_controls:
        return ValidityCheck(title=title, outcome="fail", detail="a control does as well: no score here is evidence")
    missing = [name for name in CONTROLS if name not in point.controls]
    if missing:
        detail = f"the threat model does not let {', '.join(missing)} stand beside the attack"
        return ValidityCheck(title=title, outcome="unchecked", detail=detail)
    return ValidityCheck(title=title, outcome="pass", detail=f"its error there is {point.mse.mean:.4f}")


def controls_beaten(groups: Mapping[str, Mapping[str, PointRecord]]) -> ValidityCheck:
    """Every group of points has one whose attacker beats its controls; those where not are named, and left out.

    Where it beats them nowhere but no control does better beyond the intervals, which an audit lets pass, the group has
    no number and the others keep theirs.

    Args:
        groups: points by the name of each, by the name of the group.
    """
    title = "What is compared rests on points where the attacker beats its controls"
    lost = {name: points for name, points in groups.items() if not any(item.beats_controls for item in points.values())}
    out = [name for points in groups.values() for name, item in points.items() if not item.beats_controls]
    if not groups:
        return ValidityCheck(title=title, outcome="unchecked", detail="it takes a defended point")
    if not out:
        return ValidityCheck(title=title, outcome="pass", detail=f"it does on all of {sum(map(len, groups.values()))}")
    detail = f"INVALID and left out: {', '.join(out)}"
    if not lost:
        return ValidityCheck(title=title, outcome="pass", detail=detail)
    detail += f"; no point of {', '.join(lost)} is left"
    if all(item.tells_nothing for points in lost.values() for item in points.values()):
        detail += ", though no control does better beyond the intervals: the releases may tell nothing"
        return ValidityCheck(title=title, outcome="unchecked", detail=detail)
    return ValidityCheck(title=title, outcome="fail", detail=f"{detail}: train the attacker for longer")


def _undefended_is_most_broken(points: Sequence[PointRecord]) -> ValidityCheck:
    title = "The undefended model is the most broken"
    undefended = [point for point in points if point.defense.name == UNDEFENDED]
    defended = [point for point in points if point.defense.name != UNDEFENDED]
    if not undefended or not defended:
        return ValidityCheck(title=title, outcome="unchecked", detail="it takes none and another defense")
    leaking = [point.label for point in defended if point.mse.high < undefended[0].mse.low]
    if leaking:
        return ValidityCheck(title=title, outcome="fail", detail=f"{', '.join(leaking)} leaks more")
    return ValidityCheck(title=title, outcome="pass", detail=f"none of {len(defended)} defended points leaks more")


def _noise_does_not_help(points: Sequence[PointRecord]) -> ValidityCheck:
    """Compares neighbours in noise whose other parameters are equal."""
    title = "Leakage does not grow with noise"
    pairs, wrong = 0, []
    for point in points:
        for other in points:
            if _more_noise(point, other):
                pairs += 1
                if other.mse.high < point.mse.low:
                    wrong.append(f"{other.label} leaks more than {point.label}")
    if not pairs:
        return ValidityCheck(title=title, outcome="unchecked", detail="no two points differ in noise_std alone")
    if wrong:
        return ValidityCheck(title=title, outcome="fail", detail="; ".join(wrong))
    return ValidityCheck(title=title, outcome="pass", detail=f"in none of {pairs} pairs beyond their intervals")


def _more_noise(point: PointRecord, other: PointRecord) -> bool:
    """Whether the other differs by more noise alone."""
    mine, theirs = dict(point.defense.params), dict(other.defense.params)
    low, high = mine.pop(_NOISE, None), theirs.pop(_NOISE, None)
    same = point.defense.name == other.defense.name and mine == theirs
    return same and isinstance(low, (int, float)) and isinstance(high, (int, float)) and low < high
