"""Where a training step's time goes: each part alone, in the order of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.training_loop import BATCH, CLASSES, NETS, QUICK
from splitveil.contracts import TrainState
from splitveil.data.augment import augment
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import load_defense
from splitveil.experiments.building import build_protected
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.training.features import TrainingFeatures
from splitveil.training.objective import Objective
from splitveil.training.tasks import Classification

__all__ = ["profile_steps"]

STATE = TrainState(0, 0, 0.9, 0.01)


def profile_steps(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds per part of a step under CEM, per net; medians."""
    rows = []
    for net in NETS:
        parts = _parts(net)
        times: dict[str, list[float]] = {name: [] for name in parts}
        for turn in range(rounds + 2):
            for name, run in parts.items():
                started = time.perf_counter()
                run()
                if turn >= 2:
                    times[name].append(1e3 * (time.perf_counter() - started))
        rows += [
            {"part": "profile", "case": f"{net}; cem", "quantity": f"{name}_ms", "value": float(np.median(values))}
            for name, values in times.items()
        ]
    return rows


def _parts(net: str) -> dict[str, Callable[[], Any]]:
    with Rng(0).scoped():
        model, penalties = build_protected(NETS[net](), load_defense("cem", {}), CLASSES, Rng(0))
    model.to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (2560, 3, 32, 32), dtype=torch.uint8, generator=Rng(1).generator())
    pictures = Pictures(ImageTable(images, torch.arange(2560) % CLASSES))
    objective = Objective(model, Classification(), penalties, Rng(0))
    features = TrainingFeatures(model, pictures, CLASSES, Rng(2), lambda x, _: x)
    objective.start_epoch(features)
    model.train()
    order = torch.randperm(len(images), generator=Rng(3).generator())[:BATCH]
    x, y = pictures.get(order)
    changes = QUICK.model_dump()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)
    holder: dict[str, Any] = {}

    def forward() -> None:
        holder["trace"] = model(x, holder["noises"])

    def judge() -> None:
        holder["losses"] = objective.judge(holder["trace"], y, STATE, Rng(0))

    return {
        "fetch": lambda: pictures.get(order),
        "augment": lambda: augment(x, **changes, generator=Rng(4).generator()),
        "noise": lambda: holder.update(noises=model.draw(SeededNoise(Rng(5)), BATCH, x.device)),
        "forward": forward,
        "losses_and_penalties": judge,
        "backward": lambda: holder["losses"].backward(),
        "clip": lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0),
        "optimiser": optimizer.step,
        "zero_grad": lambda: optimizer.zero_grad(set_to_none=True),
    }
