"""What each defense costs in training, relative to training without one.

``python -m benchmarks.defense_cost``: random pictures of CIFAR-10 size, the net of the recipe ``quick``. Per stage of a
defense, an epoch of work (what penalties do before it, then its steps) is timed in turn with that of `none`, so that
what else the machine does falls on both. Stages count by their epochs; those that differ in number alone are timed
once. What a penalty does before its first epoch, as an inner decoder that learns by itself, comes once in a run.
``--only`` measures some, and keeps the others that are on file.
"""

from __future__ import annotations

import argparse
import time
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
EPOCHS = 24  # of the recipe `quick`
PRESETS = (
    "gaussian", "bottleneck", "distcorr", "dropout", "topk", "patrol", "ressfl", "noise_arl",
    "shredder", "disco", "sca", "vib", "hsic", "ensembler",
)  # fmt: skip


class Training:
    """A defense at one of its stages, ready for an epoch's work.

    Args:
        defense: that trains.
        place: of the stage; those before it are gone through without a step.
    """

    def __init__(self, defense: Defense, place: int = 0) -> None:
        with Rng(0).scoped():
            parts = vgg11(classes=CLASSES, width=0.25)
        self.model, penalties = build_protected(parts, defense, CLASSES, Rng(0))
        Objective(self.model, Classification(), penalties, Rng(0))  # penalties meet the model
        stages = defense.stages()[: place + 1]
        self.stage = stages[-1]
        for stage in stages:
            if stage.before is not None:
                stage.before(self.model)
            if stage is not self.stage:
                for item in penalties:
                    item.penalty.on_stage_end(stage.name, self.model)
        self.objective = Objective(self.model, Classification(), penalties, Rng(0))
        for name, part in self.model.named_children():
            part.requires_grad_(name in self.stage.parts)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
        images = torch.randint(0, 256, (PICTURES, 3, 32, 32), generator=Rng(1).generator(), dtype=torch.uint8)
        self.table = Pictures(ImageTable(images, torch.arange(PICTURES) % CLASSES))
        self.model.train()
        self.epochs = 0

    def start(self) -> float:
        """What penalties do before an epoch, in seconds."""
        started = time.perf_counter()
        features = TrainingFeatures(self.model, self.table, CLASSES, Rng(2).child(self.epochs), lambda x, _: x)
        self.objective.start_epoch(features)
        return time.perf_counter() - started

    def epoch(self) -> float:
        """An epoch's work, in seconds."""
        before, started = self.start(), time.perf_counter()
        for step in range(PICTURES // BATCH):
            x, y = self.table.get(torch.arange(step * BATCH, (step + 1) * BATCH))
            self.optimiser.zero_grad(set_to_none=True)
            state = TrainState(self.epochs, step, 0.9, 1e-3, stage=self.stage.name)
            self.objective(x, y, state).backward()
            self.optimiser.step()
        self.epochs += 1
        return before + time.perf_counter() - started


def ratio(defense: Defense, place: int, rounds: int) -> tuple[float, float, float]:
    """Median over rounds of an epoch's time over that of `none`, how far the rounds spread, and the first start.

    The first start is in epochs of `none`, beyond what later ones cost.
    """
    plain, guarded = Training(load_defense("none", {})), Training(defense, place)
    first = guarded.start()
    plain.epoch(), guarded.epoch()
    again = guarded.start()
    times = [(guarded.epoch(), plain.epoch()) for _ in range(rounds)]
    found = np.array([mine / its for mine, its in times])
    once = max(0.0, first - again) / float(np.median([its for _, its in times]))
    return float(np.median(found)), float(np.ptp(found)), once


def whole(defense: Defense, rounds: int) -> dict[str, float]:
    """Of all stages: epochs of `none` that a run of one epoch costs, and what comes once."""
    epochs, spread, once = 0.0, 0.0, 0.0
    timed = dict[str, tuple[float, float, float]]()
    for place, stage in enumerate(defense.stages()):
        kind = stage.name.rstrip("0123456789 ")
        if kind not in timed:
            timed[kind] = ratio(defense, place, rounds)
            once = max(once, timed[kind][2])
        epochs += stage.share * timed[kind][0]
        spread = max(spread, timed[kind][1])
    return {"ratio": epochs, "spread": spread, "once_epochs": once}


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
        cost, with_cem = whole(alone, options.rounds), whole(both, options.rounds)
        rows.append(
            {
                "defense": name,
                **cost,
                "stages_epochs": sum(stage.share for stage in alone.stages()),
                "ratio_with_cem": with_cem["ratio"],
                "spread_with_cem": with_cem["spread"],
                "training_ratio": cost["ratio"] + cost["once_epochs"] / EPOCHS,
                "rounds": options.rounds,
            }
        )
    measured = [row["defense"] for row in rows]
    held = (on_file("defense_cost") or {"rows": []})["rows"]
    rows += [row for row in held if row["defense"] not in measured and "ratio" in row]
    rows.sort(key=lambda row: PRESETS.index(row["defense"]))
    summary = {
        "training_ratio": {row["defense"]: round(row["training_ratio"], 2) for row in rows},
        "cem_over_host": {row["defense"]: round(row["ratio_with_cem"] / row["ratio"], 3) for row in rows},
        "pictures_per_epoch": PICTURES,
        "epochs_of_a_run": EPOCHS,
    }
    publish("defense_cost", summary, rows)


if __name__ == "__main__":
    main()
