"""The page in one number and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from splitveil.report.audits import Audit
from splitveil.report.cards import CardView
from splitveil.report.runs import Run
from splitveil.report.validity import Judgement, baseline_of, shared_attacks
from splitveil.report.wording import INVALID, fixed, percent

__all__ = ["Headline", "headline"]

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Headline:
    """What the page comes down to.

    Args:
        number: with its unit; ``INVALID`` where a control failed.
        meaning: of the number, in a few words.
        sentence: the verdict.
        mark: ``invalid``, ``unsure`` where intervals touch or nothing proves the attack, else empty.
    """

    number: str
    meaning: str
    sentence: str
    mark: Literal["", "invalid", "unsure"] = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def headline(
    runs: Sequence[Run], judgements: Sequence[Judgement], audits: Sequence[Audit], cards: Sequence[CardView]
) -> Headline | None:
    """Of the defended run whose pictures come back worst, against the undefended one; None where nothing was attacked.

    A run whose audit is invalid, or whose certificate an attack beat, is not praised.
    """
    void = {audit.label for audit in audits if audit.status == "invalid"}
    void |= {card.label for card in cards if card.violated}
    judged = [(run, item) for run, item in zip(runs, judgements, strict=True) if item.status != "none"]
    if not judged:
        return None
    defended = [(run, item) for run, item in judged if not run.undefended] or judged
    for run, judgement in reversed(defended):
        if judgement.status == "valid" and not run.undefended and run.label not in void:
            return _against(run, baseline_of(run, runs))
    run, judgement = defended[-1]
    if judgement.status == "invalid" or run.label in void:
        reason = judgement.reason or "its audit is invalid, or an attack beat a certificate of its"
        return Headline(INVALID, "no score", f"Nothing is shown about {run.label}: {reason}.", "invalid")
    return _alone(run, judgement)


def _against(run: Run, baseline: Run | None) -> Headline | None:
    shared = shared_attacks(run, baseline) if baseline else None
    if shared is None or baseline is None:
        return _alone(run, Judgement("unchecked"))
    ours, theirs = (attack.metrics["mse"] for attack in shared)
    ratio = ours.mean / theirs.mean if theirs.mean > 0 else float("inf")
    kept, stronger = _accuracies(run, baseline), _stronger(run, ours.mean)
    meaning = "how much more the attacker errs than with no defense"
    if ours.low <= theirs.high:
        said = (
            f"The strongest attack errs about as much on {run.label} as without a defense: their intervals touch{kept}"
        )
        return Headline(f"{ratio:.2g}{_TIMES}", meaning, f"{said}{stronger}.", "unsure")
    who = "The strongest attack run on both" if stronger else "The strongest attack"
    said = f"{who} errs {_times(ratio)} times as much on {run.label} as without a defense{kept}"
    return Headline(f"{_times(ratio)}{_TIMES}", meaning, f"{said}{stronger}.", "unsure" if stronger else "")


def _stronger(run: Run, error: float) -> str:
    """An attack that errs less on the run than those that the undefended run was met with; empty if there is none."""
    worst = run.worst.get("mse")
    if worst is None or worst.result.mean >= error:
        return ""
    return f"; {run.name_of(worst.attack)}, which was not run on the undefended model, errs less on {run.label}"


def _times(ratio: float) -> str:
    return fixed(ratio, 0 if ratio >= 100 else 1)


def _accuracies(run: Run, baseline: Run) -> str:
    if run.evaluation is None or baseline.evaluation is None:
        return ""
    ours, theirs = percent(run.evaluation.score.result.mean), percent(baseline.evaluation.score.result.mean)
    return f", and the task scores {ours} % in place of {theirs} %"


def _alone(run: Run, judgement: Judgement) -> Headline:
    finding = run.worst.get("psnr")
    level = fixed(finding.result.mean if finding else None, 1)
    said = f"The strongest attack run on {run.label} brings its pictures back at {level} dB"
    meaning = "PSNR of what comes back"
    if judgement.status == "unchecked":
        why = judgement.reason or "no undefended run stands beside it"
        return Headline(f"{level} dB", meaning, f"{said}; nothing proves that the attack works: {why}.", "unsure")
    return Headline(f"{level} dB", meaning, f"{said}: this is what is to be defended.")
