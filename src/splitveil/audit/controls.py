"""Controls of an audit: what must hold before its scores may be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitveil.audit.record import ControlResult, Status
from splitveil.experiments.target import CONTROLS
from splitveil.records import AttackResult, MetricResult
from splitveil.threats import ThreatModel

__all__ = [
    "Proof",
    "adaptive_tried",
    "attack_works",
    "budget_suffices",
    "converged",
    "less_with_noise",
    "no_worse_than_controls",
    "not_above_reference",
    "same_on_other_draws",
    "status_of",
    "undefended_is_worst",
]


@dataclass(frozen=True, slots=True)
class Proof:
    """An attack on a subject that hides nothing.

    Args:
        attack: its result there.
        yardsticks: scores of controls on the same pictures, by name and metric.
        where: what the subject is, in words.
    """

    attack: AttackResult
    yardsticks: Mapping[str, Mapping[str, MetricResult]]
    where: str


_HALVED_DB = 0.4
_LONGER = "; audit again with twice the effort"
_NAMES = {"mean_image": "the mean picture", "class_mean": "the class means", "ridge": "ridge regression"}


def attack_works(proof: Proof | None) -> ControlResult:
    """The best attack, where nothing is hidden, beats the mean picture and class means; one with pairs beats ridge too.

    These yardsticks are the auditor's, who has pairs where the attacker may not, and labels where anybody has.

    Args:
        proof: the attack there; None where there is no such subject, or the attack cannot meet it.
    """
    name, title = "attack_works", "The attack beats the mean picture, the class means and ridge where nothing is hidden"
    if proof is None:
        return _result(name, title, None, "no undefended model and no reference encoder could be attacked so")
    pairs = ThreatModel.from_json(proof.attack.threat).allows("pairs")
    held = [control for control in CONTROLS if control in proof.yardsticks and (control != "ridge" or pairs)]
    missing = [_NAMES[key] for key in ("mean_image", *(["ridge"] if pairs else [])) if key not in held]
    if missing:
        return _result(name, title, None, f"{', '.join(missing)} cannot stand beside the attack")
    error = proof.attack.metrics["mse"].mean
    lost = [_NAMES[key] for key in held if proof.yardsticks[key]["mse"].mean <= error]
    detail = f"on {proof.where} {proof.attack.attack.name} errs by {error:.4f}"
    return _result(name, title, not lost, f"{detail}; {', '.join(lost)} does as well" if lost else detail)


def adaptive_tried(
    adaptive: tuple[str, ...], attacks: Sequence[AttackResult], skipped: Mapping[str, str]
) -> ControlResult:
    """The attacks that know the defense, one for each part that has its own, are among those that ran."""
    name, title = "adaptive_tried", "The attack that knows the defense was tried"
    ran = {attack.attack.name for attack in attacks}
    missing = [_untried(twin, skipped) for twin in adaptive if twin not in ran]
    return _result(name, title, None if missing else True, "; ".join(missing) or ", ".join(adaptive))


def _untried(attack: str, skipped: Mapping[str, str]) -> str:
    why = "; ".join(reason for label, reason in skipped.items() if label.split()[0] == attack)
    return f"{attack} {why or 'is not in the suite'}"


def no_worse_than_controls(attacks: Sequence[AttackResult]) -> ControlResult:
    """On the subject itself no control does better than the best attack, beyond their intervals.

    An attack that learned from other releases than those it is scored on, such as undefended features, falls here.
    """
    name, title = "no_worse_than_controls", "No control does better than the best attack on the subject itself"
    best = min(attacks, key=lambda attack: attack.metrics["mse"].mean)
    if not best.controls:
        return _result(name, title, None, "the threat model lets no control stand beside the attacks")
    detail = f"{best.attack.name} {best.metrics['mse'].mean:.4f}"
    others = ", ".join(f"{_NAMES[key]} {item['mse'].mean:.4f}" for key, item in best.controls.items())
    return _result(name, title, not best.better_controls, f"{detail}; {others}")


def undefended_is_worst(attacks: Sequence[AttackResult], undefended: Sequence[AttackResult]) -> ControlResult:
    """The subject does not leak more than its undefended twin, beyond their intervals."""
    name, title = "undefended_is_worst", "The undefended model is the most broken"
    if not undefended:
        return _result(name, title, None, "no undefended run of the same data and model stands beside it")
    return _result(name, title, *_leaks_no_more(attacks, undefended))


def not_above_reference(attacks: Sequence[AttackResult], reference: Sequence[AttackResult]) -> ControlResult:
    """The subject does not leak more than an encoder of the same payload that hides nothing on purpose."""
    name, title = "not_above_reference", "It leaks no more than a plain encoder of the same payload"
    if not reference:
        return _result(name, title, None, "an undefended twin stands beside it, or there are no pictures to train one")
    return _result(name, title, *_leaks_no_more(attacks, reference))


def _leaks_no_more(attacks: Sequence[AttackResult], others: Sequence[AttackResult]) -> tuple[bool, str]:
    ours, theirs = _lowest(attacks), _lowest(others)
    return ours.high >= theirs.low, f"error {ours.mean:.4f} here, {theirs.mean:.4f} there"


def _lowest(attacks: Sequence[AttackResult]) -> MetricResult:
    return min((attack.metrics["mse"] for attack in attacks), key=lambda result: result.mean)


def less_with_noise(as_released: MetricResult | None, with_more: MetricResult | None) -> ControlResult:
    """A fitted attack does not do better, beyond the intervals, on releases with twice the noise.

    Args:
        as_released: its error on the releases.
        with_more: its error on the same pictures with twice the noise; None where the subject has no Gaussian noise.
    """
    name, title = "less_with_noise", "Leakage does not grow with noise"
    if as_released is None or with_more is None:
        return _result(name, title, None, "the subject declares no normal noise, or its attack cannot be stored")
    detail = f"error {as_released.mean:.4f} as released, {with_more.mean:.4f} with twice the noise"
    return _result(name, title, with_more.high >= as_released.low, detail)


def same_on_other_draws(attack: AttackResult, others: Sequence[MetricResult] | None) -> ControlResult:
    """The best attack errs alike, within the intervals, under draws of the noise that no attack has been scored on.

    Args:
        attack: with the least error.
        others: its error on other draws; None where there are none, or it searches for each picture anew.
    """
    name, title = "same_on_other_draws", "Other draws of the noise give the same score"
    if not others:
        why = "releases of a picture are all the same, or stored, or the best attack searches for each anew"
        return _result(name, title, None, why)
    error = attack.metrics["mse"]
    apart = [item for item in others if item.high < error.low or item.low > error.high]
    means = ", ".join(f"{item.mean:.5f}" for item in others)
    return _result(name, title, not apart, f"{attack.attack.name} {error.mean:.5f}; {means}")


def converged(attacks: Sequence[AttackResult]) -> ControlResult:
    """The attack with the least error had stopped learning when its budget ended."""
    name, title = "converged", "The best attack had converged: its last fifth gained less than 0.15 dB"
    best = min(attacks, key=lambda attack: attack.metrics["mse"].mean)
    late = sorted({attack.attack.name for attack in attacks if attack.converged is False})
    others = f"; still learning: {', '.join(late)}" if late else ""
    if best.converged is None:
        return _result(name, title, None, f"{best.attack.name} trains nothing, or does not say{others}")
    return _result(name, title, best.converged, f"{best.attack.name}{others}{'' if best.converged else _LONGER}")


def budget_suffices(attack: AttackResult, halved: MetricResult | None) -> ControlResult:
    """The best attack on half the epochs errs at most 0.4 dB more: twice as many would gain little.

    The rate of a decoder falls to zero whatever its budget, so its error stands still at the end of any. On CIFAR-10
    decoders of 40 and of 60 epochs were 0.1 to 0.3 dB better than on half of them; twice as many gained 0.02 dB.

    Args:
        attack: with the least error.
        halved: its error on half the epochs; None for an attack that trains no decoder.
    """
    name, title = "budget_suffices", "Half the epochs do almost as well: the best attack was trained for long enough"
    if halved is None:
        return _result(name, title, None, f"{attack.attack.name} trains no decoder")
    error = attack.metrics["mse"].mean
    gained = 10 * math.log10(halved.mean / error) if error > 0 else 0.0
    detail = f"{attack.attack.name} {error:.4f}, on half the epochs {halved.mean:.4f}: {gained:.2f} dB"
    enough = gained <= _HALVED_DB
    return _result(name, title, enough, f"{detail}{'' if enough else _LONGER}")


def status_of(controls: Sequence[ControlResult]) -> Status:
    """``invalid`` where one failed; ``unproven`` unless an attack is shown to work and the one that knows was tried."""
    if any(control.state == "fail" for control in controls):
        return "invalid"
    passed = {control.name for control in controls if control.state == "pass"}
    return "valid" if {"attack_works", "adaptive_tried"} <= passed else "unproven"


def _result(name: str, title: str, passed: bool | None, detail: str) -> ControlResult:
    state = "not applicable" if passed is None else "pass" if passed else "fail"
    return ControlResult(name=name, title=title, state=state, detail=detail)
