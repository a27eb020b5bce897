"""The objective for a loop that is not ours: it counts epochs and steps itself, and is saved with what it learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureBatch, Task, TrainState, Weighted
from splitveil.errors import InputError, SpecError, UsageError
from splitveil.modes import device_of, evaluating
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.objective import Losses, Objective

__all__ = ["OwnLoop"]

Batches = Iterable[Any]
"""Batches that begin with pictures ``(n, c, h, w)`` in [0, 1] and labels ``(n,)``, such as those of a DataLoader."""


class OwnLoop(nn.Module):
    """A task and penalties over a split model, as a module that a loop of your own calls.

    The optimiser gets ``objective.model.parameters()``: penalties that train an adversary do so themselves. Its
    ``state_dict()`` holds the model, the penalties and the count of epochs: who loads it goes on where it stood.

    Args:
        model: the split model.
        task: per-sample loss.
        penalties: with their schedules.
        classes: k, or the groups that the task tells penalties.
        epochs: that the loop will run; penalties warm up over them.
        rng: key of the noise and of random layers.

    Example:
        >>> import splitveil as sv
        >>> parts = sv.factory("small", classes=2, input_shape=(1, 8, 8))
        >>> objective = sv.objective(parts, sv.defenses.cem(noise_std=0.1, clusters=1), classes=2, epochs=1)
        >>> batches = [(torch.rand(8, 1, 8, 8), torch.arange(8) % 2)]
        >>> facts = objective.start_epoch(batches)
        >>> for x, y in batches:
        ...     objective(x, y).backward()
    """

    def __init__(
        self,
        model: SplitModel,
        task: Task,
        penalties: tuple[Weighted, ...],
        *,
        classes: int,
        epochs: int,
        rng: Rng,
    ) -> None:
        super().__init__()
        if epochs < 1:
            raise SpecError(f"expected epochs >= 1, got {epochs}")
        self.model = model
        self.penalties = nn.ModuleDict({item.name: item.penalty for item in penalties})
        self.classes, self.epochs = classes, epochs
        self.epoch, self.step, self._steps = -1, 0, 0
        self._objective = Objective(model, task, penalties, rng)
        self.register_load_state_dict_post_hook(_wake)  # type: ignore[no-untyped-call]

    def start_epoch(self, batches: Batches) -> dict[str, dict[str, float]]:
        """Begin an epoch: penalties refit to the features of these pictures.

        Args:
            batches: of the training set. Penalties read as much as they need, some of them several times.

        Returns:
            The facts of each penalty, by name.

        Raises:
            InputError: a batch that does not begin with pictures and labels, or batches that can be read only once.
        """
        if isinstance(batches, Iterator):
            raise InputError(
                f"expected batches that can be read again and again, got a {type(batches).__name__}, which is read "
                "once: pass a DataLoader or a list"
            )
        steps = _count(batches)
        if steps is None and self.epochs == 1 and self.penalties:
            raise InputError(
                "expected batches that know their number for a single epoch, over which penalties warm up, got some "
                "that do not: pass a DataLoader of a sized data set, or several epochs"
            )
        self._steps = self.step if steps is None else steps  # as many as in the epoch before
        self.epoch, self.step = self.epoch + 1, 0
        rng, task = self._objective.rng.child("epoch", self.epoch), self._objective.task
        return self._objective.start_epoch(_Features(self.model, batches, self.classes, rng.child("features"), task))

    def forward(self, x: Tensor, y: Tensor, *, lr: float | None = None) -> Losses:
        """The losses of a batch: ``x (n, c, h, w)`` in [0, 1], labels ``y (n,)``, or what else the task learns.

        Args:
            x: pictures.
            y: labels, or targets.
            lr: the learning rate of now, such as ``optimiser.param_groups[0]["lr"]``; schedules that follow it,
                ``lr_coupled``, need it.

        Raises:
            SpecError: no learning rate for a schedule that follows it.
            UsageError: `start_epoch` was not called.
        """
        if self.epoch < 0:
            raise UsageError("expected an epoch to have begun, got none: call start_epoch(batches) before its steps")
        self.model.check_input(x)
        self._objective.task.to(x.device)
        losses = self._objective(x, y, self._state(lr))
        if self.training:
            self.step += 1
        return losses

    def _state(self, lr: float | None) -> TrainState:
        within = min(self.step / self._steps, 1.0) if self._steps else 0.0
        return TrainState(self.epoch, self.step, min((self.epoch + within) / self.epochs, 1.0), lr)

    def get_extra_state(self) -> dict[str, int]:
        """The epoch; a loop is saved between two of them."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on after this epoch."""
        self.epoch = int(state["epoch"])


def _wake(loop: nn.Module, incompatible: Any) -> None:
    """Penalties that were fitted know it once they are loaded themselves, which a module around them does not do."""
    for penalty in cast(OwnLoop, loop).penalties.values():
        penalty.load_state_dict(penalty.state_dict())


@dataclass(frozen=True, slots=True)
class _Features:
    """Features of a user's batches under the current head, in evaluation mode."""

    model: SplitModel
    batches: Batches
    classes: int
    rng: Rng
    task: Task

    @property
    def samples(self) -> int:
        """N, the size of the training set; counted where the batches do not say it."""
        known = _count(getattr(self.batches, "dataset", None))
        return sum(len(_pair(batch)[1]) for batch in self.batches) if known is None else known

    def __iter__(self) -> Iterator[FeatureBatch]:
        device = device_of(self.model)
        self.task.to(device)
        for batch in self.batches:
            x, y = (tensor.to(device) for tensor in _pair(batch))
            self.model.check_input(x)
            with evaluating(self.model), torch.no_grad():
                z, channel = self.model.features(x)
            yield FeatureBatch(z, self.task.group(x, y), channel, x)


def _count(items: Any) -> int | None:
    """Its length, None where it does not know it: a loader has a length that fails where its data set has none."""
    try:
        return len(items)
    except TypeError:
        return None


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    pair = tuple(batch[:2]) if isinstance(batch, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(item, Tensor) for item in pair):
        raise InputError(
            f"expected batches of pictures and labels, got {type(batch).__name__}: pass a DataLoader that yields (x, y)"
        )
    return cast(tuple[Tensor, Tensor], pair)
