"""Controls of an audit: what must hold before its scores may be read."""

from __future__ import annotations

from collections.abc import Sequence

from splitveil.audit.record import ControlResult, Status
from splitveil.experiments.target import CONTROLS
from splitveil.records import AttackResult, MetricResult

__all__ = [
    "attack_works",
    "converged",
    "less_with_noise",
    "no_worse_than_controls",
    "not_above_reference",
    "status_of",
    "undefended_is_worst",
]

_NAMES = {"mean_image": "the mean picture", "class_mean": "the class means", "ridge": "ridge regression"}


def attack_works(undefended: Sequence[AttackResult], where: str) -> ControlResult:
    """An attack beats the mean picture, the class means and ridge where nothing is hidden.

    Args:
        undefended: attacks on a subject that hides nothing; none where there is no such subject.
        where: what that subject is, in words.
    """
    name, title = "attack_works", "The attack beats the mean picture, the class means and ridge where nothing is hidden"
    if not undefended:
        return _result(name, title, None, "no undefended model and no reference encoder was attacked")
    best = min(undefended, key=lambda attack: attack.metrics["mse"].mean)
    missing = [_NAMES[control] for control in CONTROLS if control not in best.controls]
    if missing:
        return _result(name, title, None, f"the threat model does not let {', '.join(missing)} stand beside the attack")
    lost = [_NAMES[key] for key, item in best.controls.items() if item["mse"].mean <= best.metrics["mse"].mean]
    detail = f"on {where} its error is {best.metrics['mse'].mean:.4f}"
    return _result(name, title, not lost, f"{detail}; {', '.join(lost)} does as well" if lost else detail)


def no_worse_than_controls(attacks: Sequence[AttackResult]) -> ControlResult:
    """On the subject itself no control does better than the best attack, beyond their intervals.

    An attack that learned from other releases than those it is scored on, such as undefended features, falls here.
    """
    name, title = "no_worse_than_controls", "No control does better than the best attack on the subject itself"
    best = min(attacks, key=lambda attack: attack.metrics["mse"].mean)
    if not best.controls:
        return _result(name, title, None, "the threat model lets no control stand beside the attacks")
    better = [key for key, item in best.controls.items() if item["mse"].high < best.metrics["mse"].low]
    detail = f"{best.attack.name} {best.metrics['mse'].mean:.4f}"
    others = ", ".join(f"{_NAMES[key]} {item['mse'].mean:.4f}" for key, item in best.controls.items())
    return _result(name, title, not better, f"{detail}; {others}")


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


def converged(attacks: Sequence[AttackResult]) -> ControlResult:
    """The attack with the least error had stopped learning when its budget ended."""
    name, title = "converged", "The best attack had converged: its last fifth gained less than 0.15 dB"
    best = min(attacks, key=lambda attack: attack.metrics["mse"].mean)
    late = sorted({attack.attack.name for attack in attacks if attack.converged is False})
    others = f"; still learning: {', '.join(late)}" if late else ""
    if best.converged is None:
        return _result(name, title, None, f"{best.attack.name} is a closed form{others}")
    return _result(name, title, best.converged, f"{best.attack.name}{others}")


def status_of(controls: Sequence[ControlResult]) -> Status:
    """``invalid`` where one failed; ``unproven`` where nothing shows that the attack works."""
    if any(control.state == "fail" for control in controls):
        return "invalid"
    works = any(control.name == "attack_works" and control.state == "pass" for control in controls)
    return "valid" if works else "unproven"


def _result(name: str, title: str, passed: bool | None, detail: str) -> ControlResult:
    state = "not applicable" if passed is None else "pass" if passed else "fail"
    return ControlResult(name=name, title=title, state=state, detail=detail)
