"""The training loop: stages of epochs over the objective, selection on validation data, exact resume."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitveil.contracts import Comm, Stage, Task, TrainState, Weighted
from splitveil.data.augment import augment, augment_masks
from splitveil.data.loader import Pictures, steps
from splitveil.errors import SpecError, TrainingError
from splitveil.nets.surgery import apply_edits, describe_edits, edits_from_json, edits_to_json
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.batch_norm import BatchNorms
from splitveil.training.checkpoint import CheckpointStore, Place, gather, scatter
from splitveil.training.decay import decayed_or_not
from splitveil.training.features import TrainingFeatures
from splitveil.training.objective import Losses, Objective
from splitveil.training.observer import Observer
from splitveil.training.passing import network_of
from splitveil.training.ranks import Ranks
from splitveil.training.rates import learning_rate, paced
from splitveil.training.selection import is_better
from splitveil.training.totals import Totals
from splitveil.training.validation import end_of, validate

if TYPE_CHECKING:
    from splitveil.specs import TrainingSpec

__all__ = ["Trainer"]

_STEPS_BETWEEN_QUESTIONS = 16  # whether to save: several processes have to agree, and to ask costs a message


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, float)}


class Trainer:
    """Trains a split model in place.

    Every random number is a function of (seed, stage, epoch, step), so a resumed run ends with the same bits as one
    that was never stopped. The final weights are those with the lowest objective on validation data among the last
    fifth of the last stage's epochs: before that, penalties have not yet reached their weight, and to select by
    accuracy alone would select the least private epoch. A stage with a budget starts from the weights that are selected
    so in the stage before, and ends with those that lower its term most while they keep the budget; one that settles
    starts from the selected weights too, and ends with those of all its epochs, and of its start, whose loss is lowest.

    Args:
        model: trained in place.
        task: loss and score.
        penalties: with schedules.
        stages: in order.
        settings: optimiser, schedule, augmentation.
        train: training pictures on the device.
        val: validation pictures on the device.
        classes: k.
        rng: key of everything random.
        observer: hears of steps and events.
        store: where to keep checkpoints, or None.
        reference: the score that budgets count from, of the model that training starts from; None for that of the
            stage before.
        ranks: the processes that train together, each with a model, pictures and penalties like those of the others;
            the first one alone is heard and writes.
    """

    def __init__(
        self,
        model: SplitModel,
        task: Task,
        penalties: Sequence[Weighted],
        stages: Sequence[Stage],
        settings: TrainingSpec,
        *,
        train: Pictures,
        val: Pictures,
        classes: int,
        rng: Rng,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
        reference: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.task, self.penalties, self.stages = model, task, tuple(penalties), tuple(stages)
        if self.stages and self.stages[0].follows:
            raise SpecError(
                f"expected a stage before '{self.stages[0].name}', got none: it starts from the weights selected there"
            )
        self.settings, self.train_set, self.val_set, self.classes = settings, train, val, classes
        self._paces = [paced(settings, stage) for stage in self.stages]
        self.rng, self.store, self.ranks = rng, store, ranks or Ranks()
        self.observer = observer if observer is not None and self.ranks.leads else Observer()
        self.steps = steps(len(train), settings.batch_size)
        self.place = Place()
        self._begun, self._spent_s = time.monotonic(), 0.0
        self.totals = Totals()
        self._blueprint = copy.deepcopy(model) if any(stage.before for stage in stages) else None
        self._reference = reference
        self._best: dict[str, Tensor] = {}
        self._moves: dict[str, Any] = settings.augment.model_dump()  # of pictures, and of masks with them

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one.

        Raises:
            TrainingError: the loss is not finite.
            KeyboardInterrupt: passed on; the last checkpoint stands.
        """
        saved = self.store.load() if self.store else None
        if saved is not None:
            self.place = saved[1]
            self._spent_s = self.place.elapsed_s
            self.observer.rewind(self.place.log_size)
            apply_edits(self.model, edits_from_json(self.place.edits))
        self.observer.start("train", sum(self._epochs(s) for s in self.stages) * self.steps, self._done())
        try:
            while self.place.stage < len(self.stages):
                self._run_stage(self.stages[self.place.stage], saved[0] if saved else None)
                saved = None
                for item in self.penalties:
                    item.penalty.on_stage_end(self.stages[self.place.stage].name, self.model)
                if self.place.stage + 1 == len(self.stages) or self.stages[self.place.stage + 1].settles:
                    self._announce(self.stages[self.place.stage])
                self.place.stage, self.place.epoch, self.place.step = self.place.stage + 1, 0, 0
        finally:
            self.observer.stop()
        self.model.load_state_dict(self._best)
        self.model.requires_grad_(True).eval()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those of earlier processes up to their last checkpoint among them."""
        return self._spent_s + time.monotonic() - self._begun

    def _epochs(self, stage: Stage) -> int:
        return max(1, stage.min_epochs, round(stage.share * self.settings.epochs))

    def _done(self) -> int:
        before = sum(self._epochs(stage) for stage in self.stages[: self.place.stage])
        return (before + self.place.epoch) * self.steps + self.place.step

    def _run_stage(self, stage: Stage, saved: dict[str, Tensor] | None) -> None:
        if saved is None:
            self._enter(stage)
        self.model.to(self.train_set.device)
        trained = self._set_trainable(stage)
        network = network_of(self.model, self.settings, self.train_set.device, self.ranks)
        rng = self.rng.child("stage", self.place.stage)
        penalties = () if stage.settles else self.penalties
        objective = Objective(self.model, self.task, penalties, rng, network).to(self.train_set.device)
        optimizer = torch.optim.SGD(
            decayed_or_not(self.model, trained),
            lr=self._paces[self.place.stage].lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        if saved is not None:
            extra = scatter(saved, self._modules(), optimizer)
            self._best = {name[5:]: value for name, value in extra.items() if name.startswith("best/")}
            sums = {name: value for name, value in extra.items() if not name.startswith("best/")}
            self.totals.load(sums, self.ranks)
        elif self._blueprint is not None:
            self.place.edits = edits_to_json(describe_edits(self._blueprint, self.model))
        norms = BatchNorms(self._modules().values(), self.ranks)
        if stage.settles and saved is None:
            self._measure_start(stage, objective)
        with norms.watched():
            while self.place.epoch < self._epochs(stage):
                self._run_epoch(stage, objective, optimizer, norms)
                self.place.epoch, self.place.step = self.place.epoch + 1, 0
                self.totals = Totals()
                if self.store is not None and self.store.due:
                    self._save(optimizer)

    def _measure_start(self, stage: Stage, objective: Objective) -> None:
        """What settling has to better: the weights that it starts from stand where no epoch does."""
        self._keep({**(self.place.best or {}), "weights": {}, **self._validate(stage, objective)})

    def _enter(self, stage: Stage) -> None:
        """What a stage starts from: the model as it is, or as it was selected in the stage before."""
        self.place.validations = []
        best = self.place.best
        if stage.follows and best is not None:
            self.model.load_state_dict(self._best)
        if stage.budget is not None and best is not None:
            own: float = best["val_accuracy"]
            self.place.reference = own if self._reference is None else self._reference
        else:
            self.place.best, self.place.reference = (best if stage.settles else None), None
        if stage.before is not None:
            stage.before(self.model)

    def _modules(self) -> dict[str, torch.nn.Module]:
        penalties = {f"penalty_{item.name}": item.penalty for item in self.penalties}
        return {"model": self.model, **penalties}

    def _set_trainable(self, stage: Stage) -> list[torch.nn.Parameter]:
        self.model.train()
        for name, part in self.model.named_children():
            part.requires_grad_(name in stage.parts)
            part.train(name in stage.parts)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise SpecError(f"expected parameters to train in stage '{stage.name}', got none in {stage.parts}")
        return trained

    def _state(self, stage: Stage, step: int) -> TrainState:
        epochs = self._epochs(stage)
        progress = (self.place.epoch + step / self.steps) / epochs
        pace = self._paces[self.place.stage]
        rate = learning_rate(pace, self.place.epoch / epochs if pace.schedule == "multistep" else progress)
        return TrainState(
            self.place.epoch,
            step,
            progress,
            rate,
            self.place.last_validation,
            tuple(self.place.validations),
            self.place.reference,
            stage.name,
            stage.continues,
        )

    def _change(self, x: Tensor, generator: torch.Generator, first: int = 0, total: int | None = None) -> Tensor:
        return augment(x, **self._moves, generator=generator, first=first, total=total)

    def _change_pair(self, x: Tensor, y: Tensor, rng: Rng, first: int, total: int) -> tuple[Tensor, Tensor]:
        """Pictures moved at random, and their masks with them where the task has masks."""
        if self.task.moves:
            y = augment_masks(y, **self._moves, generator=rng.generator(), first=first, total=total)
        return self._change(x, rng.generator(), first, total), y

    def _run_epoch(
        self, stage: Stage, objective: Objective, optimizer: torch.optim.Optimizer, norms: BatchNorms
    ) -> None:
        rng = objective.rng.child("epoch", self.place.epoch)
        if self.place.step == 0:
            self.place.facts = self._refit(objective, rng.child("features"))
        places = torch.split(self.train_set.order(rng.child("order")), self.settings.batch_size)[: self.steps]
        dealt = [self.ranks.share(len(batch)) for batch in places]
        mine = (
            batch[rows] for batch, (_, rows) in zip(places[self.place.step :], dealt[self.place.step :], strict=True)
        )
        for step, (x, y) in enumerate(self.train_set.follow(mine), self.place.step):
            comm = dealt[step][0]
            x, y = self._change_pair(x, y, rng.child("augment", step), comm.first, len(places[step]))
            with norms.over(comm):
                losses = self._step(objective, optimizer, x, y, self._state(stage, step), comm)
            self.totals.add(losses, len(x))
            self.place.step = step + 1
            self.observer.advance(f"epoch {self.place.epoch + 1}/{self._epochs(stage)}")
            if self._is_time_to_save():
                self.totals.unite(self.ranks)
                self._save(optimizer)
        self._close_epoch(stage, objective)

    def _refit(self, objective: Objective, rng: Rng) -> dict[str, dict[str, float]]:
        """Let the penalties refit, alike in all processes."""
        features = TrainingFeatures(
            self.model, self.train_set, self.classes, rng, self._change, task=self.task, ranks=self.ranks
        )
        facts = objective.start_epoch(features)
        self.ranks.align(item.penalty for item in self.penalties)
        return facts

    def _is_time_to_save(self) -> bool:
        if self.store is None or self.place.step >= self.steps:
            return False
        if self.ranks.world_size > 1 and self.place.step % _STEPS_BETWEEN_QUESTIONS:
            return False
        return self.ranks.agree(self.store.due)

    def _step(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        state: TrainState,
        comm: Comm,
    ) -> Losses:
        for group in optimizer.param_groups:
            group["lr"] = state.lr
        optimizer.zero_grad(set_to_none=True)
        losses = objective(x, y, state, comm)
        losses.backward()
        if self.settings.clip_norm is not None:
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
        optimizer.step()
        return losses

    def _close_epoch(self, stage: Stage, objective: Objective) -> None:
        means = self.totals.of_all(self.ranks)
        self._check_finite(stage, "loss", means["loss"], means)
        state = self._state(stage, self.steps - 1)
        validation = self._validate(stage, objective)
        self._check_finite(stage, "validation loss", validation["val_objective"], _numbers(validation))
        self.place.last_validation = validation["val_accuracy"]
        self.place.validations.append(validation["val_accuracy"])
        self._select(stage, validation)
        event = {
            "event": "epoch",
            "stage": stage.name,
            "epoch": self.place.epoch,
            "lr": state.lr,
            "loss": means.pop("loss"),
            "train_accuracy": means.pop("score"),
            "terms": dict(sorted(means.items())),  # a resumed run reads them back in another order
            "weights": self.totals.weights,
            **validation,
            **self._keeping(stage, validation),
            "facts": self.place.facts,
        }
        self.observer.event(event)
        self._warn_of_collapse(stage, validation)

    def _check_finite(self, stage: Stage, what: str, value: float, values: Mapping[str, float]) -> None:
        if not all(math.isfinite(item) for item in values.values()):
            raise TrainingError(
                f"expected a finite {what}, got {value} in epoch {self.place.epoch + 1} of stage '{stage.name}': "
                "lower training.lr or the weight of the penalty"
            )

    def _validate(self, stage: Stage, objective: Objective) -> dict[str, Any]:
        pace = self._paces[self.place.stage]
        end = end_of(self._state(stage, self.steps - 1), pace, self._epochs(stage))
        found, ledgers = validate(objective, self.val_set, end, self.rng.child("validation"), self.ranks)
        for name, facts in ledgers.items():
            self.place.facts.setdefault(name, {}).update(facts)
        return found

    def _select(self, stage: Stage, validation: Mapping[str, Any]) -> None:
        later = self.stages[self.place.stage + 1 :]
        if later and not later[0].follows:
            return
        epoch = self.place.epoch
        if is_better(stage, epoch, self._epochs(stage), validation, self.place.best, self.place.reference):
            self._keep({"stage": stage.name, "epoch": epoch, "weights": self.totals.weights, **validation})

    def _keep(self, best: dict[str, Any]) -> None:
        """The weights of now are the best so far; these are the facts of them."""
        self.place.best = best
        self._best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _keeping(self, stage: Stage, validation: Mapping[str, Any]) -> dict[str, bool]:
        if stage.budget is None or self.place.reference is None:
            return {}
        return {"keeps_budget": stage.budget.keeps(validation["val_accuracy"], self.place.reference)}

    def _announce(self, stage: Stage) -> None:
        """Say which weights stand at the end of training."""
        best = self.place.best or {}
        if stage.budget is not None:
            best = {**best, "reference_accuracy": self.place.reference, "budget_points": stage.budget.points}
            if best["stage"] != stage.name:
                text = (
                    f"no epoch of stage '{stage.name}' kept the budget of {stage.budget.points} points and lowered "
                    f"{stage.budget.term}: the weights of stage '{best['stage']}' stand, from before the budget was "
                    "spent; allow more points, train longer, or start from a lower weight"
                )
                self.observer.event({"event": "warning", "epoch": self.place.epoch, "text": text})
        elif stage.settles and best["stage"] != stage.name:
            text = (
                f"no epoch of stage '{stage.name}' lowered the loss on validation data: the weights of stage "
                f"'{best['stage']}' stand; let it settle longer, or not at all"
            )
            self.observer.event({"event": "warning", "epoch": self.place.epoch, "text": text})
        self.observer.event({"event": "selected", **best})

    def _warn_of_collapse(self, stage: Stage, validation: Mapping[str, Any]) -> None:
        guess = self.task.chance(self.classes)
        chance = guess is not None and validation["val_accuracy"] <= 1.2 * guess
        pulled = {name: weight for name, weight in self.totals.weights.items() if weight > 0}
        if chance and pulled and self.place.epoch + 1 >= 0.5 * self._epochs(stage):
            names = ", ".join(f"{name} (weight {weight:.3g})" for name, weight in pulled.items())
            text = (
                f"{self.task.score_name} is at chance under {names}: the features have collapsed; lower the weight or "
                "warm up longer"
            )
            self.observer.event({"event": "warning", "epoch": self.place.epoch, "text": text})

    def _save(self, optimizer: torch.optim.Optimizer) -> None:
        if self.store is not None and self.ranks.leads:
            best = {f"best/{name}": value for name, value in self._best.items()}
            self.place.log_size, self.place.elapsed_s = self.observer.log_size(), self.elapsed_s
            self.store.save(gather(self._modules(), optimizer, {**best, **self.totals.state()}), self.place)
