"""The demonstration over several seeds: accuracy and the attacker's error of none, noise and CEM on the digits."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import publish
from splitveil.cli.board import QuietBoard
from splitveil.experiments.demo import run_demo
from splitveil.report.console import summary_rows


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    rows: list[dict[str, Any]] = []
    seconds = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            records = run_demo(Path(folder), seed, QuietBoard())
            seconds.append(time.monotonic() - started)
            keys = ("accuracy", "mse", "mse_low", "mse_high", "psnr_db", "ssim", "status", "converged")
            rows.extend(
                {"seed": seed, "defense": row["defense"], **{key: row[key] for key in keys}}
                for row in summary_rows(records)
            )

    def mean(defense: str, key: str) -> float:
        return statistics.mean(float(row[key]) for row in rows if row["defense"] == defense)

    gains = [
        cem["mse"] / noise["mse"] - 1
        for noise, cem in zip(
            (row for row in rows if row["defense"] == "gaussian"),
            (row for row in rows if row["defense"] == "cem"),
            strict=True,
        )
    ]
    summary = {
        "seeds": len(seeds),
        "test_pictures": 359,
        "budget_seconds_of_one_demo": round(max(seconds)),
        "all_valid": all(row["status"] == "valid" for row in rows),
        **{f"accuracy_{name}": round(mean(name, "accuracy"), 4) for name in ("none", "gaussian", "cem")},
        **{f"attacker_mse_{name}": round(mean(name, "mse"), 5) for name in ("none", "gaussian", "cem")},
        "cem_over_gaussian_mse_gain_per_seed": [round(gain, 3) for gain in gains],
        "note": "same noise, other accuracy: this is no comparison at equal accuracy",
    }
    publish("demo", summary, rows)


if __name__ == "__main__":
    main()
