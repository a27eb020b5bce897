"""The page in one sentence, built from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.report.runs import Run
from splitveil.report.validity import Judgement
from splitveil.report.wording import DASH, INVALID, fixed, percent

__all__ = ["Mention", "Verdict", "verdict"]

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Mention:
    """A run in the sentence: its name and colour, how its pictures come back, and its accuracy in percent."""

    label: str
    colour: int
    psnr_db: str
    accuracy: str
    invalid: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence's parts.

    Args:
        attack: named if the runs share it, else empty.
        mentions: attacked runs, at most four: the undefended, then the least and the most private.
        left_out: attacked runs that the sentence does not name.
        caution: what must be known before the numbers are believed; empty if nothing.
    """

    attack: str
    mentions: tuple[Mention, ...]
    left_out: int
    caution: str


def verdict(runs: Sequence[Run], judgements: Sequence[Judgement]) -> Verdict:
    """Put the page in one sentence; scores that fail their controls are INVALID, never a number."""
    attacked = [(run, judgement) for run, judgement in zip(runs, judgements, strict=True) if judgement.status != "none"]
    named = attacked if len(attacked) <= _MOST_NAMED else [*attacked[:2], *attacked[2 - _MOST_NAMED :]]
    attacks = {run.name_of(finding.attack) for run, _ in named if (finding := run.worst.get("psnr"))}
    return Verdict(
        attack=attacks.pop() if len(attacks) == 1 else "",
        mentions=tuple(_mention(run, judgement) for run, judgement in named),
        left_out=len(attacked) - len(named),
        caution=_caution([judgement for _, judgement in attacked]),
    )


def _mention(run: Run, judgement: Judgement) -> Mention:
    finding, evaluation = run.worst.get("psnr"), run.evaluation
    invalid = judgement.status == "invalid"
    score = INVALID if invalid else fixed(finding.result.mean, 1) if finding else DASH
    accuracy = percent(evaluation.score.result.mean) if evaluation else DASH
    return Mention(run.label, run.colour, score, accuracy, invalid)


def _caution(judgements: Sequence[Judgement]) -> str:
    if any(judgement.status == "invalid" for judgement in judgements):
        return "A score marked INVALID failed a control. It is not a good score; it is no score."
    if any(judgement.status == "unchecked" for judgement in judgements):
        return (
            "No undefended run of the same data and model, met with the same attack, stands beside every score, so the "
            "attack is unproven there."
        )
    return ""
