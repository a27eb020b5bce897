"""Whether the numbers may be read: the controls that stand beside every score.

An attack that does not beat attackers which ignore the release says nothing about the release, and a defended model
that leaks more than the undefended one shows that something went wrong. Both are printed as INVALID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from splitveil.records import AttackResult
from splitveil.report.runs import Run
from splitveil.report.wording import fixed, joined

__all__ = ["CONTROL_NAMES", "Check", "Judgement", "baseline_of", "checks", "judge", "shared_attacks"]

CONTROL_NAMES = {"mean_image": "mean image", "class_mean": "class mean", "ridge": "ridge"}
_OTHERS = "no attack was run on it and, with the same parameters, threat model and seed, on the undefended model"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a run's attack scores may be read.

    Args:
        status: ``valid``; ``invalid``; ``unchecked`` where no undefended run of the same data and model, met with the
            same attack, stands beside it; ``none`` where there is no attack.
        reason: why, as the rest of a sentence; empty for ``valid`` and ``none``.
    """

    status: Literal["valid", "invalid", "unchecked", "none"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A question about the whole page, its outcome, and the evidence."""

    title: str
    outcome: Literal["pass", "unclear", "fail", "unchecked"]
    detail: str


def baseline_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """The attacked undefended run of the same data and model, of the same seed where there is one.

    Where the pictures lie, and whether they were streamed, makes no other data of them; of several such runs one is
    taken that was met with an attack that the run was met with, too.
    """
    same = [other for other in runs if other.attacks and other.spec.is_control_of(run.spec)]
    return min(same, key=lambda other: (other.spec.seed != run.spec.seed, not shared_attacks(run, other)), default=None)


def shared_attacks(run: Run, baseline: Run) -> tuple[AttackResult, AttackResult] | None:
    """The worst error of the same attack on both; None where none was run on both.

    The same is an attack of one name, with the same parameters, threat model and seed, that beats its controls on both:
    the errors of different attackers say more of these than of the defense. Each side is the attack with the smallest
    error there, among those.
    """
    theirs = {attack.key: attack for attack in _scored(baseline)}
    pairs = [(attack, theirs[attack.key]) for attack in _scored(run) if attack.key in theirs]
    if not pairs:
        return None
    return min((ours for ours, _ in pairs), key=_error), min((other for _, other in pairs), key=_error)


def _scored(run: Run) -> list[AttackResult]:
    return [attack for attack in run.attacks if attack.beats_controls and "mse" in attack.metrics]


def _error(attack: AttackResult) -> float:
    return attack.metrics["mse"].mean


def judge(run: Run, runs: Sequence[Run]) -> Judgement:
    """Judge the scores of one run beside the others."""
    if not run.attacks:
        return Judgement("none")
    if not _sound(run):
        return Judgement("invalid", _missed_controls(run.headline))
    if run.undefended:
        return Judgement("valid")
    baseline = baseline_of(run, runs)
    if baseline is None:
        return Judgement("unchecked", "no undefended run of the same data and model stands beside it")
    if not _sound(baseline):
        return Judgement("invalid", "the attack fails its control on the undefended model")
    outcome = _compare(run, baseline)
    if outcome == "fail":
        return Judgement("invalid", "it leaks more than the undefended model")
    return Judgement("unchecked", _OTHERS) if outcome == "unchecked" else Judgement("valid")


def _sound(run: Run) -> bool:
    return any(attack.beats_controls for attack in run.attacks)


def _missed_controls(attack: AttackResult | None) -> str:
    """Name the controls that the attack does not beat."""
    if attack is None:
        return "the attack has no scores"
    lost = []
    for name, metrics in attack.controls.items():
        ours, theirs = attack.metrics.get("mse"), metrics.get("mse")
        if ours is not None and theirs is not None and theirs.mean <= ours.mean:
            lost.append(f"the {CONTROL_NAMES.get(name, name)} (MSE {fixed(theirs.mean, 4)})")
    if not lost:
        return "the attack does not clearly beat its controls"
    return f"the attack (MSE {fixed(attack.metrics['mse'].mean, 4)}) does not beat {joined(lost)}"


def _compare(run: Run, baseline: Run) -> Literal["pass", "unclear", "fail", "unchecked"]:
    """Whether the error of the same attacks is larger than on the undefended model; touching intervals are unclear."""
    shared = shared_attacks(run, baseline)
    if shared is None:
        return "unchecked"
    ours, theirs = (attack.metrics["mse"] for attack in shared)
    if ours.high < theirs.low:
        return "fail"
    return "pass" if ours.low > theirs.high else "unclear"


def checks(runs: Sequence[Run]) -> list[Check]:
    """The checks of the page."""
    return [_undefended_breaks(runs), _undefended_is_worst(runs), _controls_beaten(runs)]


def _undefended_breaks(runs: Sequence[Run]) -> Check:
    title = "The attack beats every control on the undefended model"
    controls = [run for run in runs if run.undefended and run.attacks]
    if not controls:
        return Check(title, "unchecked", "No undefended run was attacked, so nothing shows that the attack works.")
    broken = [run for run in controls if not _sound(run)]
    if broken:
        reasons = "; ".join(f"{run.label}: {_missed_controls(run.headline)}" for run in broken)
        return Check(title, "fail", f"{reasons}. No score on this page is evidence of privacy.")
    return Check(title, "pass", "Pictures come back from the undefended features, so the attack can see.")


def _undefended_is_worst(runs: Sequence[Run]) -> Check:
    title = "The undefended model is the most broken"
    outcomes: dict[str, list[str]] = {"pass": [], "unclear": [], "fail": [], "unchecked": []}
    for run in runs:
        baseline = baseline_of(run, runs)
        if baseline is not None and _sound(run) and not run.undefended:
            outcomes[_compare(run, baseline)].append(run.label)
    if outcomes["fail"]:
        return Check(title, "fail", f"{joined(outcomes['fail'])} leaks more than the undefended model.")
    if outcomes["unclear"]:
        return Check(
            title, "unclear", f"The intervals of {joined(outcomes['unclear'])} and of the undefended model touch."
        )
    if outcomes["pass"]:
        return Check(title, "pass", f"Errors are clearly larger on {joined(outcomes['pass'])}.")
    if outcomes["unchecked"]:
        return Check(title, "unchecked", f"Of {joined(outcomes['unchecked'])}: {_OTHERS}.")
    return Check(title, "unchecked", "There is no pair of a defended and an undefended run of the same data and model.")


def _controls_beaten(runs: Sequence[Run]) -> Check:
    title = "The attack beats its controls on every defended model"
    attacked = [run for run in runs if run.attacks and not run.undefended]
    if not attacked:
        return Check(title, "unchecked", "No defended run was attacked.")
    lost = [run for run in attacked if not _sound(run)]
    if lost:
        return Check(title, "fail", "; ".join(f"{run.label}: {_missed_controls(run.headline)}" for run in lost) + ".")
    names = joined([run.label for run in attacked])
    return Check(title, "pass", f"Mean image, class mean and ridge do worse on {names}.")
