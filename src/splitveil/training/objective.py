"""The loss that is optimised, which is the loss that is logged: ``task + sum weight(state) * penalty``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.contracts import ALONE, Comm, FeatureStream, PenaltyContext, Task, Trace, TrainState, Weighted
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

__all__ = ["Losses", "Objective"]


@dataclass(frozen=True, slots=True)
class Losses:
    """One evaluation of the objective.

    Args:
        total: scalar, ``terms['task'] + sum weights[name] * terms[name]``.
        terms: unweighted, by name.
        weights: effective weights of this step; a penalty with weight 0 adds nothing to `total`.
        trace: the pass behind it.
        score: ``(n,)`` of the task.
        share: times the gradient, where other processes hold rows of the batch; see `Comm`.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    weights: Mapping[str, float]
    trace: Trace
    score: Tensor
    share: float = 1.0

    def backward(self) -> None:
        """Gradients of `total`; over several processes, their mean is that of the whole batch."""
        torch.autograd.backward(self.total if self.share == 1 else self.total * self.share)


class Objective:
    """A task and penalties over a split model, for our loop or a user's own.

    Args:
        model: the split model.
        task: per-sample loss.
        penalties: with their schedules.
        rng: key of the noise and of random layers.
        network: how a pass is computed, ``(x, noises) -> Trace``: compiled, or over several processes; the model itself
            by default.

    Example:
        >>> import splitveil as sv
        >>> parts = sv.factory("small", classes=2, input_shape=(1, 8, 8))
        >>> model, objective = sv.protect(parts, sv.defenses.gaussian(noise_std=0.1), classes=2, seed=0)
        >>> loss = objective(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]), TrainState(0, 0, 0.0, 0.1))
        >>> loss.backward()
    """

    def __init__(
        self,
        model: SplitModel,
        task: Task,
        penalties: Sequence[Weighted],
        rng: Rng,
        network: Callable[[Tensor, tuple[Tensor, ...]], Trace] | None = None,
    ) -> None:
        self.model, self.task, self.penalties, self.rng = model, task, tuple(penalties), rng
        self._network = network if network is not None else model
        for item in self.penalties:
            item.penalty.attach(model)

    def to(self, device: torch.device | str) -> Objective:
        """Move the model, the task and the penalties."""
        self.model.to(device)
        self.task.to(device)
        for item in self.penalties:
            item.penalty.to(device)
        return self

    def start_epoch(self, features: FeatureStream) -> dict[str, dict[str, float]]:
        """Let every penalty refit to the training set's features; returns their facts by name."""
        facts = {item.name: item.penalty.on_epoch(features) for item in self.penalties}
        return {name: values for name, values in facts.items() if values}

    def __call__(self, x: Tensor, y: Tensor, state: TrainState, comm: Comm = ALONE) -> Losses:
        """The losses of a batch.

        Args:
            x: ``(n, c, h, w)`` in [0, 1].
            y: targets ``(n, ...)``.
            state: where training stands.
            comm: the processes that hold the other rows of the batch. Noise is drawn for all of it and every row gets
                its own; layers that draw for themselves, such as dropout, draw by process.
        """
        rng = self.rng.child("step", state.epoch, state.step)
        layers = rng.child("layers") if comm.rank == 0 else rng.child("layers", comm.rank)
        with layers.scoped(x.device):
            noise = SeededNoise(rng.child("noise"), comm.first)
            trace = self._network(x, self.model.draw(noise, len(x), x.device))
        return self.judge(trace, y, state, rng, comm)

    def judge(self, trace: Trace, y: Tensor, state: TrainState, rng: Rng, comm: Comm = ALONE) -> Losses:
        """The losses of a pass that is there already; a penalty with weight 0 is not evaluated and has no term."""
        weights = {item.name: item.weight(state) for item in self.penalties}
        chosen = [item for item in self.penalties if weights[item.name] != 0]
        return self._sum(chosen, weights, trace, y, state, rng, comm)

    def measure(self, trace: Trace, y: Tensor, state: TrainState, rng: Rng, comm: Comm = ALONE) -> Losses:
        """As `judge`, with the terms of all penalties, whatever their weight."""
        weights = {item.name: item.weight(state) for item in self.penalties}
        return self._sum(self.penalties, weights, trace, y, state, rng, comm)

    def inspect(self, trace: Trace, y: Tensor, state: TrainState, rng: Rng) -> dict[str, dict[str, Tensor]]:
        """What every penalty wants to know of held-out pictures, by its name."""
        group = self.task.group(trace.x, y)
        return {
            item.name: item.penalty.inspect(
                trace, PenaltyContext(self.model, group, state, rng.child("penalty", item.name))
            )
            for item in self.penalties
        }

    def ledgers(self, inspected: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, float]]:
        """The facts that penalties draw from all batches of `inspect`, by name."""
        facts = {}
        for item in self.penalties:
            batches = [batch[item.name] for batch in inspected]
            values = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
            facts[item.name] = item.penalty.ledger(values) if values else {}
        return facts

    def _sum(
        self,
        penalties: Sequence[Weighted],
        weights: Mapping[str, float],
        trace: Trace,
        y: Tensor,
        state: TrainState,
        rng: Rng,
        comm: Comm,
    ) -> Losses:
        target = self.task.target(trace.x, y)
        group = self.task.groups(target)
        terms: dict[str, Tensor] = {"task": self.task.loss(trace.output, target).mean()}
        total = terms["task"]
        for item in penalties:
            context = PenaltyContext(self.model, group, state, rng.child("penalty", item.name), comm)
            if self.model.training:
                item.penalty.on_step(trace, context)
            parts = item.penalty(trace, context)
            terms.update(parts)
            if weights[item.name] != 0:
                total = total + weights[item.name] * torch.stack(list(parts.values())).sum()
        score = self.task.score(trace.output.detach(), target)
        return Losses(total, terms, weights, trace, score, comm.share)
