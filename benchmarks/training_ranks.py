"""Two processes against one at the same global batch: how far their losses and terms are apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from splitveil.data.loader import Pictures
from splitveil.defenses import load_defense
from splitveil.experiments.building import build_protected
from splitveil.experiments.devices import spread
from splitveil.experiments.training import load_data_spec
from splitveil.nets.small import small
from splitveil.rng import Rng
from splitveil.specs import AugmentSpec, DataSpec, TrainingSpec
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.ranks import Ranks
from splitveil.training.tasks import Classification

__all__ = ["compare_ranks"]

DEFENSES: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "none": ({}, torch.float32),
    "cem": ({"noise_std": 0.1, "weight": 1.0}, torch.float32),
    "distcorr": ({}, torch.float32),
    # in float32, kernels of untrained features are all close to 1, and centring leaves rounding: 3e-5 after an epoch;
    # and Adam makes full steps out of the rounding of gradients that are zero
    "hsic": ({}, torch.float64),
    "noise_arl": ({}, torch.float64),
}
_CLASSES, _EQUAL = 10, 1e-5


class Exact(Pictures):
    """Pictures in a precision of choice."""

    dtype = torch.float32

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """As of any pictures."""
        x, y = super().get(indices)
        return x.to(self.dtype), y

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As of any pictures."""
        for x, y in super().batches(batch_size):
            yield x.to(self.dtype), y


class Epochs(Observer):
    """Keeps the epochs' events."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def event(self, event: dict[str, Any]) -> None:
        """Keep."""
        if event["event"] == "epoch":
            self.found.append(event)


def train(ranks: Ranks, device: torch.device, observer: Observer, epochs: int) -> None:
    """Every defense on 650 digits, whose last batch of an epoch does not divide evenly, with batch norm."""
    splits = load_data_spec(DataSpec(source="digits", limit=650)).splits
    for name, (params, dtype) in DEFENSES.items():
        with Rng(0).scoped():
            parts = small(classes=_CLASSES)
        defense = load_defense(name, params)
        model, penalties = build_protected(parts, defense, _CLASSES, Rng(0))
        model.to(dtype)
        tables = [Exact(splits.train), Exact(splits.val)]
        if dtype == torch.float64:
            for table in tables:
                table.dtype = dtype
            for item in penalties:
                item.penalty.to(dtype)
        settings = TrainingSpec(epochs=epochs, batch_size=64, lr=0.01, augment=AugmentSpec(crop=1))
        trainer = Trainer(
            model,
            Classification(),
            penalties,
            defense.stages(),
            settings,
            train=tables[0],
            val=tables[1],
            classes=_CLASSES,
            rng=Rng(0),
            observer=observer,
            ranks=ranks,
        )
        trainer.run()


def compare_ranks(epochs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The largest difference of the loss and of any term, in training and in validation, per defense."""
    one, two = Epochs(), Epochs()
    for run in track((1, 2), "ranks"):
        if run == 1:
            train(Ranks(), torch.device("cpu"), one, epochs)
        else:
            spread(train, [epochs], devices=2, accelerator="cpu", observer=two)
    apart = [_apart(alone, together) for alone, together in zip(one.found, two.found, strict=True)]
    names = [name for name in DEFENSES for _ in range(len(apart) // len(DEFENSES))]
    rows = [
        {"part": "ranks", "case": name, "quantity": f"largest_difference_epoch_{event['epoch'] + 1}", "value": value}
        for name, event, value in zip(names, one.found, apart, strict=True)
    ]
    return {"ranks_equal": max(apart) <= _EQUAL, "ranks_largest_difference": max(apart)}, rows


def _apart(one: dict[str, Any], two: dict[str, Any]) -> float:
    pairs: list[tuple[float, float]] = [(one["loss"], two["loss"]), (one["val_objective"], two["val_objective"])]
    for name in ("terms", "val_terms"):
        pairs += [(value, two[name][key]) for key, value in one[name].items()]
    return max(abs(a - b) for a, b in pairs)
