"""Two processes against one at the same global batch: how far apart they end, and what is gained."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import track

from splitveil.experiments.training import train_run
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec

__all__ = ["compare_ranks"]

DEFENSES: dict[str, dict[str, Any]] = {
    "gaussian": {"noise_std": 0.1},
    "cem": {"noise_std": 0.1, "weight": 1.0},
    "noise_arl": {},
    "distcorr": {},
    "hsic": {},
}
_EQUAL = 1e-5


def compare_ranks(epochs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The largest difference of any term of the first epoch, per defense, on the digits with batch norm."""
    rows, largest = [], {}
    for name, params in track(DEFENSES.items(), "ranks"):
        spec = RunSpec(
            data=DataSpec(source="digits"),
            model=ModelSpec(factory="splitveil.nets.small:small"),
            defense=PlugInSpec(name=name, params=params),
            training=TrainingSpec(epochs=epochs, batch_size=64, lr=0.01, augment=AugmentSpec(crop=1)),
        )
        with tempfile.TemporaryDirectory() as folder:
            events = [_epochs(spec, Path(folder) / str(devices), devices) for devices in (1, 2)]
        pairs = zip(*events, strict=True)
        apart = [max(abs(one["terms"][key] - two["terms"][key]) for key in one["terms"]) for one, two in pairs]
        largest[name] = apart[0]
        rows += [
            {"part": "ranks", "case": name, "quantity": f"largest_difference_epoch_{epoch + 1}", "value": value}
            for epoch, value in enumerate(apart)
        ]
    summary = {
        "ranks_equal": max(largest.values()) <= _EQUAL,
        "ranks_largest_difference": max(largest.values()),
        "ranks_defenses": list(DEFENSES),
    }
    return summary, rows


def _epochs(spec: RunSpec, out: Path, devices: int) -> list[dict[str, Any]]:
    train_run(spec, out, devices=devices, accelerator="cpu")
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "epoch"]
