"""Everything that the page's template prints, gathered from the runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from splitveil import __version__
from splitveil.registry import MODELS
from splitveil.report.audits import audits
from splitveil.report.cards import cards
from splitveil.report.curves import Curve, attack_curves, fact_rows, training_curves
from splitveil.report.gallery import gallery
from splitveil.report.plots import Point, scatter_plot
from splitveil.report.runs import Run
from splitveil.report.tables import control_names, control_rows, result_rows, threats
from splitveil.report.validity import CONTROL_NAMES, Judgement, checks, judge
from splitveil.report.verdict import verdict
from splitveil.report.wording import amount, fixed, percent, scalar, score_word

__all__ = ["context"]


@dataclass(frozen=True, slots=True)
class Training:
    """The curves of one run, and what its penalties report."""

    label: str
    colour: int
    curves: tuple[Curve, ...]
    facts: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """How one run was made and how to make it again."""

    label: str
    colour: int
    command: str
    spec: str
    environment: tuple[tuple[str, str], ...]


def context(runs: Sequence[Run], title: str) -> dict[str, Any]:
    """The template's variables."""
    judgements = [judge(run, runs) for run in runs]
    levels = sorted({run.evaluation.utility.level for run in runs if run.evaluation} or {0.95})
    return {
        "title": title,
        "score_word": _word(runs),
        "version": __version__,
        "verdict": verdict(runs, judgements),
        "checks": checks(runs),
        "results": result_rows(runs, judgements),
        "level": " or ".join(f"{fixed(100 * level, 0)} %" for level in levels),
        "scatter": _scatter(runs, judgements),
        "scale": _scale(runs),
        "threats": threats(runs),
        "gallery": gallery(runs, judgements),
        "audits": audits(runs),
        "cards": cards(runs),
        "control_names": [CONTROL_NAMES.get(name, name) for name in control_names(runs)],
        "controls": control_rows(runs),
        "training": [_training(run, f"run{number}") for number, run in enumerate(runs) if run.epochs],
        "attack_curves": attack_curves(runs, "attack"),
        "provenance": [_provenance(run) for run in runs],
    }


def _scatter(runs: Sequence[Run], judgements: Sequence[Judgement]) -> tuple[Markup, str] | None:
    """Accuracy against the attacker's error; None with fewer than two points."""
    points = []
    for run, judgement in zip(runs, judgements, strict=True):
        finding, evaluation = run.worst.get("mse"), run.evaluation
        if judgement.status in ("invalid", "none") or finding is None or evaluation is None:
            continue
        error, accuracy = finding.result, evaluation.utility
        points.append(
            Point(
                label=run.label,
                colour=run.colour,
                x=error.mean,
                y=100 * accuracy.mean,
                x_interval=(error.low, error.high),
                y_interval=(100 * accuracy.low, 100 * accuracy.high),
            )
        )
    if len(points) < 2:
        return None
    word = _word(runs)
    svg = scatter_plot(points, x_label="MSE of recovered pictures", y_label=f"{word}, %", key="scatter")
    said = "; ".join(f"{point.label}: {word} {fixed(point.y, 1)} %, MSE {fixed(point.x, 4)}" for point in points)
    return svg, said


def _word(runs: Sequence[Run]) -> str:
    return score_word([run.evaluation.utility_name for run in runs if run.evaluation])


def _scale(runs: Sequence[Run]) -> str:
    """What an attacker that sees no release reaches, dB; empty if nobody measured it."""
    for run in runs:
        for attack in run.attacks:
            blind = attack.controls.get("mean_image", {}).get("psnr")
            if blind is not None:
                return amount("psnr", blind)
    return ""


def _training(run: Run, key: str) -> Training:
    return Training(run.label, run.colour, tuple(training_curves(run, key)), tuple(fact_rows(run)))


def _trust(factory: str | None) -> str:
    """The option without which a model from outside is not loaded."""
    if factory is None:
        return " --model package.module:function"
    foreign = factory not in {entry.target for entry in MODELS}
    return f" --model {shlex.quote(factory)}" if foreign else ""


def _provenance(run: Run) -> Provenance:
    name = run.record.name
    training = run.spec.training
    extent = f"{training.epochs} epochs, seed {run.spec.seed}"
    spec_file, new = (shlex.quote(text) for text in (f"{name}/spec.json", f"{name}-again"))
    rows = [("run", name), ("recipe", extent)]
    if run.evaluation:
        utility = run.evaluation.utility
        rows.append((_word([run]), f"{percent(utility.mean)} % of {scalar(utility.n)} test pictures"))
    return Provenance(
        label=run.label,
        colour=run.colour,
        command=f"splitveil train --spec {spec_file} --out {new}{_trust(run.spec.model.factory)}",
        spec=json.dumps(run.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
        environment=(*rows, *((str(key), scalar(value)) for key, value in run.environment.items())),
    )
