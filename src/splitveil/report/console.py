"""The table of a comparison as plain data, for the command line and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splitveil.records import MetricResult, RunRecord
from splitveil.report.runs import Run, load_runs
from splitveil.report.validity import judge

__all__ = ["COLUMNS", "run_rows", "summary_rows"]

_SCORES = {"mse": "mse", "psnr": "psnr_db", "ssim": "ssim"}

COLUMNS = (
    "defense",
    "run",
    *(f"{name}{end}" for name in ("accuracy", "score") for end in ("", "_low", "_high")),
    "score_name",
    *(f"{name}{end}" for name in _SCORES.values() for end in ("", "_low", "_high", "_attack")),
    "worst_psnr_db",
    "payload_bytes",
    "edge_parameters",
    "edge_multiply_adds",
    "attack",
    "converged",
    "beats_controls",
    "status",
    "reason",
    "notes",
)
"""Of a row, in order."""


def summary_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One row per run: accuracy, the least safe score over its attacks per metric, and whether it may be read.

    Each score has its interval in ``*_low`` and ``*_high`` and its attack in ``*_attack``; what is missing is None.
    ``status`` is ``valid``, ``invalid``, ``unchecked`` (no undefended run beside it) or ``none`` (no attack); an
    invalid score is not a good score, and ``reason`` says why.

    Raises:
        InputError: there is nothing to show.
    """
    return run_rows(load_runs(records))


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The rows of runs that were read already."""
    return [_row(run, runs) for run in runs]


def _row(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    evaluation, headline, judgement = run.evaluation, run.headline, judge(run, runs)
    row: dict[str, Any] = {
        "defense": run.label,
        "run": run.record.name,
        **_score("accuracy", evaluation.accuracy if evaluation else None),
        **_score("score", evaluation.score.result if evaluation else None),
        "score_name": evaluation.score.name if evaluation else None,
    }
    for name, column in _SCORES.items():
        finding = run.worst.get(name)
        row |= _score(column, finding.result if finding else None)
        row[f"{column}_attack"] = finding.attack.key if finding else None
    worst = run.worst.get("psnr")
    return row | {
        "worst_psnr_db": worst.result.worst if worst else None,
        "payload_bytes": evaluation.payload_bytes if evaluation else None,
        "edge_parameters": evaluation.edge_parameters if evaluation else None,
        "edge_multiply_adds": evaluation.edge_multiply_adds if evaluation else None,
        "attack": headline.key if headline else None,
        "converged": headline.converged if headline else None,
        "beats_controls": headline.beats_controls if headline else None,
        "status": judgement.status,
        "reason": judgement.reason,
        "notes": list(run.notes),
    }


def _score(column: str, result: MetricResult | None) -> dict[str, float | None]:
    return {
        column: result.mean if result else None,
        f"{column}_low": result.low if result else None,
        f"{column}_high": result.high if result else None,
    }
