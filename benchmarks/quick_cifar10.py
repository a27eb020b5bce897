"""CEM over noise on CIFAR-10 at equal accuracy: the quick recipe, three noise levels each, three seeds.

``python -m benchmarks.quick_cifar10 --data FOLDER --out runs/quick_cifar10``; stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import publish
from splitveil.cli.board import make_board
from splitveil.experiments.compare.api import compare, plan_cells
from splitveil.report.comparison import build_comparison_report

DEFENSES = ("none", "gaussian", "cem")
GRID = {"gaussian.noise_std": [0.1, 0.2, 0.4], "cem.noise_std": [0.05, 0.1, 0.2], "cem.weight": [0.2, 0.8]}
SEEDS = 3


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    cells = plan_cells(DEFENSES, data=options.data, grid=GRID, seeds=options.seeds, recipe="quick")
    with make_board(len(cells)) as board:
        record = compare(cells, options.out, board=board, recipe="quick")
    build_comparison_report(record, options.out, options.out / "report.html")
    [delta] = record.deltas
    undefended = next(point for point in record.points if point.defense.name == "none")
    rows: list[dict[str, Any]] = [
        {
            "point": point.label,
            "accuracy": point.accuracy.mean,
            "mse": point.mse.mean,
            "mse_low": point.mse.low,
            "mse_high": point.mse.high,
            "psnr_db": point.psnr_db,
            "converged": point.converged_share,
            "selected": point.selected,
        }
        for point in record.points
    ]
    summary = {
        "cem_over_gaussian_db": delta.mse_db.mean if delta.mse_db else None,
        "lower_db": delta.mse_db.low if delta.mse_db else None,
        "upper_db": delta.mse_db.high if delta.mse_db else None,
        "accuracy_points_at_equal_mse": delta.accuracy_points.mean if delta.accuracy_points else None,
        "verdict": delta.verdict,
        "seeds": delta.seeds,
        "test_pictures": delta.pictures,
        "accuracy_range": delta.accuracy_range,
        "undefended_mse": undefended.mse.mean,
        "undefended_accuracy": undefended.accuracy.mean,
        "converged_share": record.converged_share,
        "status": record.status,
        "failed_runs": len(record.failed),
    }
    publish("quick_cifar10", summary, rows)


if __name__ == "__main__":
    main()
