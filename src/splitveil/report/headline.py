"""The page in one number and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from splitveil.report.audits import Audit
from splitveil.report.cards import CardView
from splitveil.report.runs import Run
from splitveil.report.validity import Judgement, baseline_of
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
    ours, theirs = run.worst.get("mse"), baseline.worst.get("mse") if baseline else None
    if ours is None or theirs is None or baseline is None:
        return _alone(run, Judgement("unchecked"))
    ratio = ours.result.mean / theirs.result.mean if theirs.result.mean > 0 else float("inf")
    kept = _accuracies(run, baseline)
    if ours.result.low <= theirs.result.high:
        said = (
            f"The strongest attack errs about as much on {run.label} as without a defense: their intervals touch{kept}."
        )
        return Headline(f"{ratio:.2g}{_TIMES}", "how much more the attacker errs than with no defense", said, "unsure")
    said = f"The strongest attack errs {_times(ratio)} times as much on {run.label} as without a defense{kept}."
    return Headline(f"{_times(ratio)}{_TIMES}", "how much more the attacker errs than with no defense", said)


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
        return Headline(f"{level} dB", meaning, f"{said}; nothing beside it proves that the attack works.", "unsure")
    return Headline(f"{level} dB", meaning, f"{said}: this is what is to be defended.")
