"""The worst over all attackers, and who is the cheapest to reach it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from splitveil.audit.record import Worst
from splitveil.contracts import Attack
from splitveil.records import AttackResult, MetricResult
from splitveil.registry import ATTACKS
from splitveil.threats import Grant, ThreatModel

__all__ = ["cost", "needs_of", "needs_of_class", "used_by", "worst_scores"]

_PRICES = {"labels": 1, "pairs": 1, "tail": 2, "architecture": 3, "query": 4, "weights": 5}
"""The order in which attackers come to hold things: anybody finds labels, the weights have to be stolen."""


def worst_scores(attacks: Sequence[AttackResult]) -> dict[str, Worst]:
    """By metric, the least safe mean over attackers.

    The cheapest attacker who reaches it is the one with the least `cost` among those whose mean is not safer than
    the safe end of the interval of the worst.

    Args:
        attacks: with the same metrics, at least one.
    """
    found = {}
    for name in attacks[0].metrics:
        worst = min(attacks, key=lambda attack: _safety(attack.metrics[name]))
        edge = _safe_end(worst.metrics[name])
        reaching = [attack for attack in attacks if _safety(attack.metrics[name]) <= edge]
        cheapest = min(reaching, key=cost)
        found[name] = Worst(
            attack=worst.key,
            result=worst.metrics[name],
            cheapest=cheapest.key,
            cheapest_needs=tuple(needs_of(cheapest)),
        )
    return found


def needs_of_class(attack: AttackResult) -> frozenset[Grant]:
    """What an attack cannot do without."""
    return cast(Attack, ATTACKS.load(attack.attack.name)).needs


def used_by(attack: AttackResult) -> frozenset[Grant]:
    """What this attacker made use of: what it cannot do without, and what it took because it was granted."""
    used = set(needs_of_class(attack))
    if attack.facts.get("moments") in ("noise-free releases", "simulated releases"):
        used = (used - {"pairs"}) | {"weights"}
    if attack.facts.get("fresh_noise"):
        used.add("query")
    if attack.facts.get("held_out_pairs"):
        used.add("pairs")
    return frozenset(used)


def needs_of(attack: AttackResult) -> list[str]:
    """What an attacker must hold, in words: grants, and releases of one picture where it takes several."""
    grants: list[str] = sorted(used_by(attack))
    threat = ThreatModel.from_json(attack.threat)
    if threat.observations == 1:
        return grants
    kind = "near duplicates" if threat.duplicates == "near" else "releases"
    return [*grants, f"{threat.observations} {kind} of a picture"]


def cost(attack: AttackResult) -> tuple[int, int, int]:
    """What an attacker must come to hold, then how many releases it must see, then how many queries it asked."""
    price = sum(_PRICES[grant] for grant in used_by(attack))
    return price, ThreatModel.from_json(attack.threat).observations, int(attack.facts.get("queries", 0))


def _safety(result: MetricResult) -> float:
    return result.mean if result.safer == "higher" else -result.mean


def _safe_end(result: MetricResult) -> float:
    return result.high if result.safer == "higher" else -result.low
