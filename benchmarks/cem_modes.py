"""CEM's covariances and the paper's surrogate at matched accuracy on CIFAR-10: the quick recipe, one seed.

``python -m benchmarks.cem_modes --data FOLDER --out runs/quick_cifar10`` goes on where the other CIFAR-10 one stopped.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

from benchmarks.harness import publish
from splitveil.cli.board import make_board
from splitveil.experiments.compare.api import compare, plan_cells

NOISE: dict[str, list[Any]] = {"gaussian.noise_std": [0.1, 0.2, 0.4], "cem.noise_std": [0.1]}
BOUND: dict[str, list[Any]] = {"cem.weight": [0.2, 0.8]}
MODES: dict[str, dict[str, list[Any]]] = {
    "diagonal": BOUND,  # the default: its runs are those of the other benchmark
    "full": {**BOUND, "cem.covariance": ["full"]},
    "low_rank": {**BOUND, "cem.covariance": ["low_rank"]},
    "isotropic": {**BOUND, "cem.covariance": ["isotropic"]},
    "thresholded_trace": {
        "cem.weight": [2.0, 8.0],
        "cem.surrogate": ["thresholded_trace"],
        "cem.schedule": ["lr_coupled"],
    },
}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args()
    plans = [
        plan_cells(
            ("none", "gaussian", "cem"), data=options.data, grid={**NOISE, **MODES[mode]}, seeds=1, recipe="quick"
        )
        for mode in options.modes
    ]
    cells = list({cell.name: cell for cell in itertools.chain(*plans)}.values())
    with make_board(len(cells)) as board:
        record = compare(cells, options.out, board=board, recipe="quick")
    rows: list[dict[str, Any]] = [
        {
            "curve": delta.other,
            "over": delta.reference,
            "verdict": delta.verdict,
            "mse_db": delta.mse_db.mean if delta.mse_db else None,
            "low": delta.mse_db.low if delta.mse_db else None,
            "high": delta.mse_db.high if delta.mse_db else None,
            "from_accuracy": delta.accuracy_range[0] if delta.accuracy_range else None,
            "to_accuracy": delta.accuracy_range[1] if delta.accuracy_range else None,
        }
        for delta in record.deltas
    ]
    points = [{"point": point.label, "accuracy": point.accuracy.mean, "mse": point.mse.mean} for point in record.points]
    summary = {
        "seeds": 1,
        "modes": options.modes,
        "points": points,
        "converged_share": record.converged_share,
        "status": record.status,
    }
    publish("cem_modes", summary, rows)


if __name__ == "__main__":
    main()
