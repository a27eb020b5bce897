"""Trains one run and kills its own process at a chosen moment: ``killed_run.py OUT SEED MOMENT``.

Moments: ``never``; ``step:N`` after N steps; ``saving:N`` while the N-th checkpoint is written, before it is renamed;
``weights`` when training is over and the weights are written, but not the evaluation.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from splitveil.experiments import training
from splitveil.experiments.training import train_run
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.training import checkpoint
from splitveil.training.observer import Observer


def spec(seed: int) -> RunSpec:
    """CEM on 300 digits: the mixture, the noise and the augmentation all have a state to lose."""
    return RunSpec(
        seed=seed,
        data=DataSpec(source="digits", limit=300),
        model=ModelSpec(factory="splitveil.nets.small:small", kwargs={"width": 0.5}),
        defense=PlugInSpec(name="cem", params={"noise_std": 0.1, "weight": 1.0, "clusters": 2}),
        training=TrainingSpec(epochs=4, batch_size=32, augment=AugmentSpec(crop=1)),
    )


def die() -> None:
    """As ``kill -9`` does: no handler runs, no file is closed."""
    os.kill(os.getpid(), signal.SIGKILL)


class DiesAtStep(Observer):
    """Kills the process after so many steps."""

    def __init__(self, last: int) -> None:
        self.left = last

    def advance(self, text: str) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            die()


def die_while_saving(last: int) -> None:
    """Kill the process within the last-th save, when the temporary file stands beside the old checkpoint."""
    left, save_file = last, checkpoint.save_file

    def save(tensors: dict[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
        nonlocal left
        save_file(tensors, path, dict(header))
        left -= 1
        if left == 0:
            die()

    checkpoint.save_file = save  # type: ignore[assignment]


def main(out: str, seed: str, moment: str) -> None:
    """Run."""
    what, _, number = moment.partition(":")
    if what == "saving":
        die_while_saving(int(number))
    if what == "weights":
        training._evaluate = lambda *_: die()  # type: ignore[assignment]
    observer = DiesAtStep(int(number)) if what == "step" else Observer()
    train_run(spec(int(seed)), Path(out), observer=observer, device="cpu", checkpoint_interval_s=0.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
