"""What each defense costs in training, relative to training without one.

``python -m benchmarks.defense_cost``: random pictures of CIFAR-10 size, the net of the recipe ``quick``. Per defense
an epoch of work (what penalties do before it, then its steps) is timed in turn with that of `none`, so that what else
the machine does falls on both; stages are counted by their epochs. ``--only`` measures some, and keeps
the others that are on file: all of them take a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.harness import on_file, publish
from splitveil.contracts import TrainState
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import Defense, conditional_entropy, load_defense
from splitveil.experiments.building import build_protected
from splitveil.nets.vgg import vgg11
from splitveil.rng import Rng
from splitveil.training.features import TrainingFeatures
from splitveil.training.objective import Objective
from splitveil.training.tasks import Classification

CLASSES, BATCH, PICTURES = 10, 128, 2560
PRESETS = (
    "gaussian", "bottleneck", "distcorr", "dropout", "topk", "patrol", "ressfl", "noise_arl",
    "shredder", "disco", "sca", "vib", "hsic", "ensembler",
)  # fmt: skip


def epoch_of(defense: Defense) -> Callable[[], float]:
    """A function that does an epoch's work in the longest stage of a defense and says how many seconds it took."""
    with Rng(0).scoped():
        parts = vgg11(classes=CLASSES, width=0.25)
    model, penalties = build_protected(parts, defense, CLASSES, Rng(0))
    stage = max(defense.stages(), key=lambda item: item.share)
    for item in defense.stages():
        if item.before is not None and item.name == stage.name:
            item.before(model)
    objective = Objective(model, Classification(), penalties, Rng(0))
    for name, part in model.named_children():
        part.requires_grad_(name in stage.parts)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    generator = Rng(1).generator()
    images = torch.randint(0, 256, (PICTURES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    table = Pictures(ImageTable(images, torch.arange(PICTURES) % CLASSES))
    model.train()
    epochs = 0

    def run() -> float:
        nonlocal epochs
        started = time.perf_counter()
        features = TrainingFeatures(model, table, CLASSES, Rng(2).child(epochs), lambda x, _: x)
        objective.start_epoch(features)
        for step in range(PICTURES // BATCH):
            x, y = table.get(torch.arange(step * BATCH, (step + 1) * BATCH))
            optimiser.zero_grad(set_to_none=True)
            objective(x, y, TrainState(epochs, step, 0.9, 1e-3, stage=stage.name)).backward()
            optimiser.step()
        epochs += 1
        return time.perf_counter() - started

    return run


def ratio(defense: Defense, rounds: int) -> tuple[float, float]:
    """Median over rounds of an epoch's time over that of `none`, and how far the rounds spread."""
    plain, guarded = epoch_of(load_defense("none", {})), epoch_of(defense)
    plain(), guarded()
    found = np.array([guarded() / plain() for _ in range(rounds)])
    return float(np.median(found)), float(np.ptp(found))


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PRESETS, default=list(PRESETS))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in track(options.only, "defenses"):
        alone = load_defense(name, {})
        both = alone + conditional_entropy(0.2)
        (cost, spread), (with_cost, with_spread) = ratio(alone, options.rounds), ratio(both, options.rounds)
        shares = sum(stage.share for stage in alone.stages())
        rows.append(
            {
                "defense": name,
                "epoch_ratio": cost,
                "spread": spread,
                "epoch_ratio_with_cem": with_cost,
                "spread_with_cem": with_spread,
                "epochs_ratio": shares,
                "training_ratio": cost * shares,
                "rounds": options.rounds,
            }
        )
    measured = [row["defense"] for row in rows]
    rows += [row for row in (on_file("defense_cost") or {"rows": []})["rows"] if row["defense"] not in measured]
    rows.sort(key=lambda row: PRESETS.index(row["defense"]))
    summary = {
        "training_ratio": {row["defense"]: round(row["training_ratio"], 2) for row in rows},
        "cem_over_host": {row["defense"]: round(row["epoch_ratio_with_cem"] / row["epoch_ratio"], 3) for row in rows},
        "pictures_per_epoch": PICTURES,
    }
    publish("defense_cost", summary, rows)


if __name__ == "__main__":
    main()
