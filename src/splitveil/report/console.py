"""Summaries of runs as plain rows, for the terminal and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splitveil.records import RunRecord

__all__ = ["summary_rows"]


def summary_rows(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """One row per run, with its strongest attack (the lowest mean MSE); None where a run has not got that far."""
    return [_row(record) for record in records]


def _row(record: RunRecord) -> dict[str, Any]:
    evaluation, attacks = record.evaluation, record.attacks
    worst = min(attacks, key=lambda item: item.metrics["mse"].mean, default=None)
    metrics = {name: item.model_dump(mode="json") for name, item in worst.metrics.items()} if worst else {}
    return {
        "run": record.name,
        "defense": record.spec.defense.name,
        "accuracy": evaluation.accuracy.model_dump(mode="json") if evaluation else None,
        "payload_bytes": evaluation.payload_bytes if evaluation else None,
        "attack": worst.attack.name if worst else None,
        "mse": metrics.get("mse"),
        "psnr_db": metrics.get("psnr"),
        "ssim": metrics.get("ssim"),
        "worst_psnr_db": metrics["psnr"]["worst"] if metrics else None,
        "beats_controls": worst.beats_controls if worst else None,
    }
