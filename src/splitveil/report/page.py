"""Everything that the page's template prints, gathered from the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from splitveil import __version__
from splitveil.report.audits import audits
from splitveil.report.cards import cards
from splitveil.report.caveats import caveats
from splitveil.report.curves import Curve, attack_curves, fact_rows, training_curves
from splitveil.report.gallery import gallery
from splitveil.report.headline import headline
from splitveil.report.lattice import lattices
from splitveil.report.ledger import ledger
from splitveil.report.people import people
from splitveil.report.planes import planes
from splitveil.report.plots import Point, scatter_plot
from splitveil.report.provenance import provenance, report_command
from splitveil.report.runs import Run
from splitveil.report.tables import control_names, control_rows, result_rows, threats
from splitveil.report.validity import CONTROL_NAMES, Judgement, checks, judge
from splitveil.report.verdict import verdict
from splitveil.report.wording import amount, fixed, interval, score_word

__all__ = ["context"]


@dataclass(frozen=True, slots=True)
class Training:
    """The curves of one run, and what its penalties report."""

    label: str
    colour: int
    curves: tuple[Curve, ...]
    facts: tuple[tuple[str, str, str, str], ...]


def context(runs: Sequence[Run], title: str) -> dict[str, Any]:
    """The template's variables."""
    judgements = [judge(run, runs) for run in runs]
    audited, certified, checked = audits(runs), cards(runs), checks(runs)
    drawn, unread = planes(runs)
    levels = sorted({run.evaluation.score.result.level for run in runs if run.evaluation} or {0.95})
    return {
        "title": title,
        "score_word": _word(runs),
        "version": __version__,
        "headline": headline(runs, judgements, audited, certified),
        "verdict": verdict(runs, judgements),
        "checks": checked,
        "results": result_rows(runs, judgements),
        "level": " or ".join(f"{fixed(100 * level, 0)} %" for level in levels),
        "scatter": _scatter(runs, judgements),
        "scale": _scale(runs),
        "threats": threats(runs),
        "gallery": gallery(runs, judgements),
        "audits": audited,
        "lattices": lattices(runs, judgements),
        "cards": certified,
        "people": people(runs),
        "planes": drawn,
        "planes_notes": unread,
        "ledger": ledger(runs),
        "caveats": caveats(runs, judgements, checked, audited, certified),
        "control_names": [CONTROL_NAMES.get(name, name) for name in control_names(runs)],
        "controls": control_rows(runs),
        "training": [_training(run) for run in runs if run.epochs],
        "attack_curves": attack_curves(runs),
        "provenance": [provenance(run) for run in runs],
        "report_command": report_command(runs),
    }


def _scatter(runs: Sequence[Run], judgements: Sequence[Judgement]) -> Markup | None:
    """Accuracy against the attacker's error; None with fewer than two points."""
    points = []
    for run, judgement in zip(runs, judgements, strict=True):
        finding, evaluation = run.worst.get("mse"), run.evaluation
        if judgement.status in ("invalid", "none") or finding is None or evaluation is None:
            continue
        error, accuracy = finding.result, evaluation.score.result
        points.append(
            Point(
                label=run.label,
                colour=run.colour,
                x=error.mean,
                y=100 * accuracy.mean,
                x_interval=(error.low, error.high),
                y_interval=(100 * accuracy.low, 100 * accuracy.high),
                tip="\n".join(
                    [
                        run.label,
                        f"{_word([run])} {amount('accuracy', accuracy)} % ({interval('accuracy', accuracy)})",
                        f"MSE {amount('mse', error)} ({interval('mse', error)})",
                        f"PSNR {amount('psnr', run.worst['psnr'].result)} dB" if "psnr" in run.worst else "",
                    ]
                ).strip(),
            )
        )
    if len(points) < 2:
        return None
    word = _word(runs)
    said = "; ".join(f"{point.label}: {word} {fixed(point.y, 1)} %, MSE {fixed(point.x, 4)}" for point in points)
    return scatter_plot(
        points,
        x_label="MSE of recovered pictures",
        y_label=f"{word}, %",
        key="scatter",
        said=f"Scatter plot. {said}",
    )


def _word(runs: Sequence[Run]) -> str:
    return score_word([run.evaluation.score.name for run in runs if run.evaluation])


def _scale(runs: Sequence[Run]) -> str:
    """What an attacker that sees no release reaches, dB; empty if nobody measured it."""
    for run in runs:
        for attack in run.attacks:
            blind = attack.controls.get("mean_image", {}).get("psnr")
            if blind is not None:
                return amount("psnr", blind)
    return ""


def _training(run: Run) -> Training:
    return Training(run.label, run.colour, tuple(training_curves(run)), tuple(fact_rows(run)))
