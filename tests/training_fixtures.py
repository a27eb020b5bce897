"""Trainings of a moment: two classes of tiny pictures, a small net, a penalty that anybody can compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitveil.contracts import Penalty, PenaltyContext, Stage, Terms, Trace, TrainState
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.specs import TrainingSpec
from splitveil.split_model import SplitModel
from splitveil.training.checkpoint import CheckpointStore
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.tasks import Classification

SETTINGS = TrainingSpec(epochs=4, batch_size=16, lr=0.1)


class Listener(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.steps = 0

    def advance(self, text: str) -> None:
        self.steps += 1

    def event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def epochs(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == "epoch"]


class SometimesDue(CheckpointStore):
    """Saves every so many times that the trainer asks, which it does once after each step."""

    def __init__(self, path: Path, every: int) -> None:
        super().__init__(path, "spec")
        self.every, self.asked = every, 0

    @property
    def due(self) -> bool:
        """Whether it is time."""
        self.asked += 1
        return self.asked % self.every == 0


class Stopping(Listener):
    """Interrupts after so many steps."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def advance(self, text: str) -> None:
        super().advance(text)
        if self.steps == self.last:
            raise KeyboardInterrupt


class Spread(Penalty):
    """The mean square of z."""

    def __init__(self) -> None:
        super().__init__()
        self.refits = 0
        self.states: list[TrainState] = []

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        self.states.append(context.state)
        return {"spread": trace.z.square().mean()}

    def on_epoch(self, features: Any) -> dict[str, float]:
        self.refits += 1
        return {"samples": float(sum(len(batch.z) for batch in features))}


def pictures(n: int, seed: int = 0) -> Pictures:
    """Two classes, one brighter above, one below."""
    generator = Rng(seed).generator()
    images = torch.randint(0, 128, (n, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 3 * label : 3 * label + 3] += 100
    return Pictures(ImageTable(images, labels))


def make_model(seed: int = 0) -> SplitModel:
    with Rng(seed).scoped():
        head = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        tail = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    return SplitModel(SplitParts(head, tail, (1, 6, 6)), Gaussian(noise_std=0.1))


def make_trainer(model: SplitModel, **changes: Any) -> Trainer:
    given: dict[str, Any] = {
        "penalties": (),
        "stages": (Stage(),),
        "settings": SETTINGS,
        "train": pictures(48),
        "val": pictures(16, seed=1),
        "classes": 2,
        "rng": Rng(0),
        "observer": Listener(),
        **changes,
    }
    penalties, stages, settings = given.pop("penalties"), given.pop("stages"), given.pop("settings")
    return Trainer(model, Classification(), penalties, stages, settings, **given)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
