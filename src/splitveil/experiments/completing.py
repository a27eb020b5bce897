"""What the data and the weights decide of a run, found before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from splitveil.contracts import Stage, Task, Weighted
from splitveil.data.splits import Splits
from splitveil.data.tables import Source
from splitveil.errors import SpecError
from splitveil.experiments.building import build_run, check_fit, complete_kwargs
from splitveil.experiments.starting import Original, load_original
from splitveil.nets.parts import SplitParts
from splitveil.registry import TASKS
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec, RunSpec
from splitveil.split_model import SplitModel
from splitveil.training.tasks import make_task, with_facts

__all__ = ["Prepared", "complete", "original_of", "prepare", "rehearse"]

_BEHIND_THE_WIRE = ("tail", "finish")


def complete(
    spec: RunSpec, source: Source, splits: Splits, trusted: str | None = None
) -> tuple[RunSpec, Original | None]:
    """Fill in the digest of the pictures, parameters of the task and of the model, and the digest of the weights.

    Args:
        spec: what was asked for.
        source: the pictures.
        splits: of them.
        trusted: a model factory outside splitveil that the user named.

    Returns:
        The complete spec, and the trained model that the run starts from, None for fresh weights.

    Raises:
        SpecError: data that the task cannot learn from, or a task that needs weights to start from and has none.
    """
    data = spec.data.model_copy(update={"digest": splits.digest})
    learns, outputs = with_facts(spec.learns, source, splits.train)
    model = complete_kwargs(spec.model, source, splits, trusted, outputs)
    original = original_of(spec.model_copy(update={"data": data, "model": model}), source, trusted)
    if cast(type[Task], TASKS.load(learns.name)).needs_original:
        if original is None:
            raise SpecError(f"expected weights of the model that task '{learns.name}' learns from, got none: pass some")
        learns = PlugInSpec(name=learns.name, params={"classes": original.outputs, **learns.params})
    make_task(learns)
    found = {
        "data": data,
        "model": model,
        "task": learns if learns.params else learns.name,
        "weights": None if original is None else original.weights,
    }
    return spec.model_copy(update=found), original


def original_of(spec: RunSpec, source: Source, trusted: str | None = None) -> Original | None:
    """The trained model that a run starts from, None for fresh weights; digest and parameters are filled in already."""
    if spec.weights is None:
        return None
    return load_original(spec.weights, spec.model, spec.data, source, Rng(spec.seed).child("init"), trusted)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that a complete spec trains.

    Args:
        model: to train.
        penalties: with their schedules.
        stages: in order.
        task: what is learned.
        groups: how many classes penalties see.
        built: the model as whoever loads the run builds it.
        original: the trained model that the run starts from, None for fresh weights.
    """

    model: SplitModel
    penalties: tuple[Weighted, ...]
    stages: tuple[Stage, ...]
    task: Task
    groups: int
    built: SplitModel
    original: Original | None


def prepare(spec: RunSpec, source: Source, original: Original | None, trusted: str | None = None) -> Prepared:
    """Build what a complete spec trains.

    Args:
        spec: see `complete`.
        source: the pictures.
        original: see `complete`.
        trusted: a model factory outside splitveil that the user named.

    Raises:
        SpecError: a model that does not fit the pictures or the task; a tail that cannot stay as it is; weights that
            the defense would throw away.
    """
    task = make_task(spec.learns)
    groups = task.count_groups(source.classes)
    built = build_run(spec, groups, trusted)[0]
    model, penalties, defense = build_run(spec, groups, trusted, _parts_of(original))
    check_fit(model, source, task)
    stages = _planned(spec, defense.stages(), model, original)
    _check_start(spec, stages, task, original)
    if task.needs_original and original is not None:
        task.attach(original.told)
    return Prepared(model, penalties, stages, task, groups, built, original)


def rehearse(run: Prepared) -> None:
    """Change a copy of the model as the stages will, so that what cannot be done fails before anything is trained.

    Raises:
        MissingExtraError: a package is missing.
        SpecError: a stage cannot change the model as it is asked to.
    """
    hooks = [stage.before for stage in run.stages if stage.before is not None]
    if not hooks:
        return
    stand_in = copy.deepcopy(run.model)
    with Rng(0).scoped():
        for change in hooks:
            change(stand_in)


def _parts_of(original: Original | None) -> SplitParts | None:
    """Parts that may be changed and trained: the original stays as it is."""
    return None if original is None else copy.deepcopy(original.parts)


def _planned(spec: RunSpec, stages: Sequence[Stage], model: SplitModel, original: Original | None) -> tuple[Stage, ...]:
    """The stages of a defense, without the tail where it is to stay as the weights have it, and one to settle in.

    Raises:
        SpecError: there are no weights to leave the tail with, the tail is not the one that they are of, a frozen one
            is to settle, or a budget is to count from a model that nobody knows.
    """
    if original is not None and any(stage.budget is not None for stage in stages):
        _ = original.told
    if not spec.training.freeze_tail:
        return (*stages, *_settling(spec, stages))
    if spec.training.settle:
        raise SpecError("expected a tail that stays as it is, or one that settles, got both: set settle to 0")
    if original is None:
        raise SpecError("expected weights of the tail that is frozen, got none: pass some, or let it train")
    if original.fresh:
        raise SpecError(
            "expected a frozen tail that the weights fill, got one with fresh layers: pass bottleneck=null of the "
            "model, and weights with its last layer"
        )
    shapes = [
        {name: value.shape for name, value in tail.state_dict().items()} for tail in (model.tail, original.parts.tail)
    ]
    if shapes[0] != shapes[1]:
        raise SpecError(
            f"expected a defense that leaves the tail as it is, got '{spec.defense.name}', which changes it: choose "
            "another, or let it train"
        )
    return tuple(replace(stage, parts=tuple(part for part in stage.parts if part != "tail")) for stage in stages)


def _check_start(spec: RunSpec, stages: Sequence[Stage], task: Task, original: Original | None) -> None:
    """Weights that the first stage throws away serve nothing, unless the task learns from what they answer.

    Raises:
        SpecError: they are given all the same.
    """
    if original is not None and stages[0].fresh and not task.needs_original:
        raise SpecError(
            f"expected no weights under '{spec.defense.name}', which begins every stage with fresh ones, got some: "
            "leave them out, take another defense, or a task that learns from their answers (distilled_classification)"
        )


def _settling(spec: RunSpec, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """What the cloud may see is decided once the head is trained: what is done with it then tells nobody more."""
    if not spec.training.settle:
        return ()
    behind = (tuple(part for part in stage.parts if part in _BEHIND_THE_WIRE) for stage in reversed(stages))
    parts = next((found for found in behind if found), ())
    return (Stage("settle", spec.training.settle, parts=parts, settles=True),)
