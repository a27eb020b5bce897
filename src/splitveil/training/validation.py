"""The objective on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitveil.contracts import Comm, TrainState
from splitveil.data.loader import Pictures
from splitveil.modes import evaluating
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.training.objective import Objective
from splitveil.training.ranks import Ranks
from splitveil.training.rates import learning_rate
from splitveil.training.totals import Totals

if TYPE_CHECKING:
    from splitveil.specs import TrainingSpec

__all__ = ["end_of", "validate"]

_BATCH = 512

Facts = dict[str, dict[str, float]]


def end_of(state: TrainState, pace: TrainingSpec, epochs: int) -> TrainState:
    """The state at the end of a stage, whose weights of penalties validation always uses."""
    return replace(state, epoch=epochs - 1, progress=1.0, lr=learning_rate(pace, (epochs - 1) / epochs))


def validate(
    objective: Objective, pictures: Pictures, end: TrainState, rng: Rng, ranks: Ranks
) -> tuple[dict[str, Any], Facts]:
    """The objective on validation data, with the weights that penalties have at the end of the stage.

    Every penalty's terms are measured, those without weight too: a budget compares them with the reference's.

    Args:
        objective: its model is put into evaluation mode meanwhile.
        pictures: of validation.
        end: see `end_of`.
        rng: of the noise, which is the same every time.
        ranks: that share every batch; all get the same answer.

    Returns:
        The event's entries ``val_loss``, ``val_accuracy``, ``val_objective``, ``val_terms``, and facts by penalty.
    """
    model, totals, start, inspected = objective.model, Totals(), 0, []
    with evaluating(model), torch.no_grad():
        for x, y in pictures.batches(_BATCH):
            comm, rows = ranks.share(len(x))
            noise = SeededNoise(rng, start + comm.first)
            start += len(x)
            x, y = x[rows], y[rows]
            trace = model(x, model.draw(noise, len(x), x.device))
            totals.add(objective.measure(trace, y, end, rng, comm), len(x))
            inspected.append(_of_all(objective.inspect(trace, y, end, rng), comm))
        ledgers = objective.ledgers(inspected)
    means = totals.of_all(ranks)
    found = {
        "val_loss": means.pop("task"),
        "val_accuracy": means.pop("score"),
        "val_objective": means.pop("loss"),
    }
    return {**found, "val_terms": {name: value for name, value in means.items() if math.isfinite(value)}}, ledgers


def _of_all(values: Mapping[str, Mapping[str, Tensor]], comm: Comm) -> dict[str, dict[str, Tensor]]:
    """What penalties found of a batch, with the rows of all processes."""
    return {name: {key: comm.gather(value) for key, value in found.items()} for name, found in values.items()}
