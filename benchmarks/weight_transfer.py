"""Does one weight mean the same on two data sets and at three batch sizes? The bound beside the paper's surrogate.

``python -m benchmarks.weight_transfer --data FOLDER`` trains on the built-in digits and on 4,000 pictures there,
and reads off, at the selected epoch, the information per dimension that each weight leaves.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.harness import accuracy_of, publish
from splitveil.experiments.api import make_spec
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec

NOISE_STD = 0.1
BATCHES = (32, 64, 128)
PENALTIES: dict[str, dict[str, Any]] = {
    "bound": {"weights": (0.05, 0.2, 0.8), "params": {}},
    "thresholded_trace": {
        "weights": (4.0, 16.0),
        "params": {"surrogate": "thresholded_trace", "schedule": "lr_coupled"},
    },
}
SCALES = {"digits": ("tiny", 60, None), "pictures": ("quick", 12, 4000)}


def measure(name: str, path: str, batch: int, params: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train one run; the rate grows with the batch, so that all batch sizes go as far."""
    recipe_name, epochs, limit = SCALES[name]
    recipe = load_recipe(recipe_name)
    rate = recipe.training.lr * batch / recipe.training.batch_size
    settings = recipe.training.model_copy(update={"epochs": epochs, "batch_size": batch, "lr": rate})
    spec = make_spec(path, defense=PlugInSpec(name="cem", params=params), recipe=recipe, limit=limit)
    record = train_run(spec.model_copy(update={"training": settings}), out, data=load_data_spec(spec.data))
    evaluation, facts = record.evaluation, _selected_facts(record)
    assert evaluation is not None
    dimensions = 1
    for size in evaluation.release["shape"]:
        dimensions *= size
    return {
        "accuracy": accuracy_of(record).mean,
        "nats_per_dimension": facts["held_out_nats"] / dimensions,
        "snr_db": facts["snr_db"],
    }


def _selected_facts(record: RunRecord) -> dict[str, float]:
    events = list(record.events())
    chosen = next(event for event in events if event.get("event") == "selected")
    epoch = next(event for event in events if event.get("event") == "epoch" and event["epoch"] == chosen["epoch"])
    facts: dict[str, float] = epoch["facts"]["conditional_entropy"]
    return facts


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="A folder of pictures beside the digits.")
    sources = {"digits": "digits", "pictures": parser.parse_args().data}
    grid = [
        (name, batch, surrogate, weight)
        for name in sources
        for batch in BATCHES
        for surrogate, item in PENALTIES.items()
        for weight in item["weights"]
    ]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, batch, surrogate, weight) in enumerate(track(grid, "runs")):
            params = {"noise_std": NOISE_STD, "weight": weight, **PENALTIES[surrogate]["params"]}
            found = measure(name, sources[name], batch, params, Path(folder) / str(number))
            rows.append({"data": name, "batch": batch, "surrogate": surrogate, "weight": weight, **found})
    summary: dict[str, Any] = {"noise_std": NOISE_STD, "batches": BATCHES, "seeds": 1}
    for surrogate, item in PENALTIES.items():
        for weight in item["weights"]:
            nats = [
                row["nats_per_dimension"] for row in rows if (row["surrogate"], row["weight"]) == (surrogate, weight)
            ]
            summary[f"{surrogate}_{weight:g}_largest_over_smallest_nats"] = round(max(nats) / min(nats), 2)
    publish("weight_transfer", summary, rows)


if __name__ == "__main__":
    main()
