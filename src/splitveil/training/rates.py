"""Learning rates over a stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from splitveil.contracts import Stage

if TYPE_CHECKING:
    from splitveil.specs import TrainingSpec

__all__ = ["learning_rate", "paced"]


def learning_rate(settings: TrainingSpec, progress: float) -> float:
    """The rate at this share of the stage's epochs.

    Example:
        >>> from splitveil.specs import TrainingSpec
        >>> learning_rate(TrainingSpec(epochs=10, lr=0.1, schedule="cosine"), 0.5)
        0.05
    """
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "multistep":
        return settings.lr * settings.gamma ** sum(progress >= share for share in settings.milestones)
    return settings.lr


def paced(settings: TrainingSpec, stage: Stage) -> TrainingSpec:
    """The settings with the learning rate of a stage."""
    changes = {"lr": settings.lr * stage.lr_scale, "schedule": stage.lr_schedule or settings.schedule}
    return settings.model_copy(update=changes)
