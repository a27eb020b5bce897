"""The main job on real pictures: train, attack and report none, noise and CEM under the quick recipe, within a budget.

``python benchmarks/pictures.py --data FOLDER_OF_CIFAR_10 --out runs/pictures``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from harness import publish

from splitveil.cli.progress import Bar
from splitveil.experiments.api import make_spec
from splitveil.experiments.attacking import attack_run
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.report.build import build_report
from splitveil.report.console import summary_rows
from splitveil.specs import PlugInSpec

DEFENSES = (
    PlugInSpec(name="none"),
    PlugInSpec(name="gaussian", params={"noise_std": 0.1}),
    PlugInSpec(name="cem", params={"noise_std": 0.1}),
)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe = load_recipe("quick")
    specs = [make_spec(options.data, defense=defense, recipe=recipe, seed=options.seed) for defense in DEFENSES]
    data = load_data_spec(specs[0].data)
    records, seconds = [], []
    for spec in specs:
        name, started = spec.defense.name, time.monotonic()
        records.append(train_run(spec, options.out / name, observer=Bar(name), data=data))
        trained = time.monotonic()
        attack_run(records[-1], recipe.attack, seed=options.seed, observer=Bar(name), data=data)
        build_report(records, options.out / "report.html", title="Real pictures")
        seconds.append({"train_s": trained - started, "attack_and_report_s": time.monotonic() - trained})
    keys = ("accuracy", "mse", "mse_low", "mse_high", "psnr_db", "ssim", "status", "converged")
    rows: list[dict[str, Any]] = [
        {"defense": row["defense"], **{key: row[key] for key in keys}, **took}
        for row, took in zip(summary_rows(records), seconds, strict=True)
    ]
    summary = {
        "seed": options.seed,
        "splits": data.splits.sizes,
        "budget_seconds_of_the_slowest": round(max(sum(took.values()) for took in seconds)),
        **{f"accuracy_{row['defense']}": round(row["accuracy"], 4) for row in rows},
        **{f"attacker_mse_{row['defense']}": round(row["mse"], 5) for row in rows},
    }
    publish("pictures", summary, rows)


if __name__ == "__main__":
    main()
