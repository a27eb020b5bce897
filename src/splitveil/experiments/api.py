"""The Python tour: factory, protect, train, attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitveil.contracts import Stage, Task
from splitveil.data.datasets import as_source
from splitveil.data.reading import Reading
from splitveil.data.sources import guess_source
from splitveil.defenses import Defense
from splitveil.errors import SpecError, UsageError
from splitveil.experiments.attacking import attack_run
from splitveil.experiments.attacking import load_model as load_run_model
from splitveil.experiments.building import build_parts, build_protected, factory_target
from splitveil.experiments.devices import Accelerator
from splitveil.experiments.recipes import Recipe, load_recipe
from splitveil.experiments.starting import find_weights
from splitveil.experiments.training import LoadedData, load_data_spec, train_run
from splitveil.nets.parts import SplitParts
from splitveil.records import AttackResult, RunRecord
from splitveil.rng import Rng
from splitveil.specs import ModelSpec, PlugInSpec, RunSpec, parse
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel
from splitveil.training.objective import Objective
from splitveil.training.observer import Observer
from splitveil.training.own_loop import OwnLoop
from splitveil.training.tasks import Classification

__all__ = ["attack", "default_recipe", "factory", "load_model", "make_spec", "objective", "protect", "reload", "train"]


def factory(model: str, *, seed: int = 0, **kwargs: Any) -> SplitParts:
    """Build a registered net, or ``package.module:function``, in parts.

    Example:
        >>> factory("small", classes=10, input_shape=(1, 8, 8)).input_shape
        (1, 8, 8)
    """
    target = factory_target(model)
    return build_parts(ModelSpec(factory=target, kwargs=kwargs), Rng(seed).child("init"), trusted=target)


def protect(
    parts: SplitParts, defense: Defense, *, classes: int, seed: int = 0, task: Task | None = None
) -> tuple[SplitModel, Objective]:
    """A split model under a defense and its objective, for a training loop of your own; classification by default.

    Call ``objective.start_epoch(features)`` before each epoch where the defense has penalties that refit.

    Raises:
        SpecError: a defense that trains in stages, which only `train` can run.
    """
    _check_plain(defense)
    groups = classes if task is None else task.count_groups(classes)
    model, penalties = build_protected(parts, defense, groups, Rng(seed).child("init"))
    return model, Objective(model, task or Classification(), penalties, Rng(seed).child("train"))


def objective(
    parts: SplitParts, defense: Defense, *, classes: int, epochs: int, seed: int = 0, task: Task | None = None
) -> OwnLoop:
    """A defense as the loss of a training loop of your own; the split model is its `model`.

    ```
    objective = sv.objective(parts, defense, classes=10, epochs=20)
    each epoch:  objective.start_epoch(loader);  each step:  objective(x, y).backward()
    ```

    Args:
        parts: of `split`, or of a factory of yours.
        defense: see `splitveil.defenses`.
        classes: k.
        epochs: that the loop will run.
        seed: of new layers, noise and random layers.
        task: what is learned; classification by default.

    Raises:
        SpecError: a defense that trains in stages, which only `train` can run.
    """
    _check_plain(defense)
    learns = task or Classification()
    groups, rng = learns.count_groups(classes), Rng(seed)
    model, penalties = build_protected(parts, defense, groups, rng.child("init"))
    return OwnLoop(model, learns, penalties, classes=groups, epochs=epochs, rng=rng.child("train"))


def _check_plain(defense: Defense) -> None:
    stages = defense.stages()
    if len(stages) != 1 or stages[0] != Stage(name=stages[0].name):
        names = ", ".join(stage.name for stage in stages)
        raise SpecError(
            f"expected a defense of one plain stage for a loop of your own, got '{defense.name}' with {names}: "
            "train it by  splitveil.train"
        )


def default_recipe(source: str) -> str:
    """``tiny`` for the digits, ``quick`` for everything else."""
    return "tiny" if source == "digits" else "quick"


def make_spec(
    data: str,
    *,
    model: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    defense: PlugInSpec,
    recipe: Recipe,
    seed: int = 0,
    limit: int | None = None,
    training: Mapping[str, Any] | None = None,
    task: str | PlugInSpec = "classification",
    weights: str | Path | None = None,
    size: int | None = None,
    skip_corrupt: bool = False,
    stream: bool | None = None,
) -> RunSpec:
    """A spec from a few words and a recipe.

    Raises:
        MissingDataError: no such data, or no such weights.
        SpecError: a value out of range, or a model beside the run that decides it.
    """
    source, path = guess_source(data)
    started, before = (None, None) if weights is None else find_weights(weights)
    if before is not None and (model is not None or model_kwargs):
        raise SpecError(f"expected no model beside the run in '{weights}', which decides it, got one: leave it out")
    name = model or recipe.model
    chosen = {"factory": factory_target(name), "kwargs": {**recipe.kwargs_for(name), **(model_kwargs or {})}}
    facts = {
        "seed": seed,
        "data": {
            "source": source,
            "path": None if path is None else str(path.resolve() if path.exists() else path),
            "limit": recipe.limit if limit is None else limit,
            "size": size,
            "skip_corrupt": skip_corrupt,
            "stream": stream,
        },
        "model": before or chosen,
        "defense": defense,
        "training": {**recipe.training.model_dump(), **(training or {})},
        "task": task,
        "weights": started,
    }
    return parse(RunSpec, facts, "run")


def train(
    model: str | None,
    /,
    data: Any,
    defense: Defense,
    *,
    out: str | Path,
    recipe: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    training: Mapping[str, Any] | None = None,
    task: str | PlugInSpec = "classification",
    weights: str | Path | None = None,
    size: int | None = None,
    skip_corrupt: bool = False,
    stream: bool | None = None,
    observer: Observer | None = None,
    device: str | None = None,
    devices: int = 1,
    accelerator: Accelerator | None = None,
    **model_kwargs: Any,
) -> RunRecord:
    """Train a registered net, or ``package.module:function``, under a defense.

    Args:
        model: name of the net; None for the recipe's, or for that of the run in `weights`.
        data: ``digits``, a folder of pictures or of parquet tables, ``hub:user/name``, ``unlabeled:folder``; or a
            map-style data set, or a `Source` of `splitveil.data`, which whoever attacks the run must pass again.
        defense: see `splitveil.defenses`.
        out: folder of the run.
        recipe: ``tiny``, ``quick`` or ``full``.
        seed: of weights, order, augmentation and noise.
        limit: the most pictures to use.
        training: changes to the recipe's training, such as ``{"freeze_tail": True, "sampling": "balanced"}``.
        task: ``classification``, ``regression``, ``segmentation``, ``distillation``, or a `PlugInSpec` with parameters.
        weights: to start from: the folder of a run, or a safetensors file of head and tail or of the uncut network.
        size: side in pixels that pictures are resized and cropped to.
        skip_corrupt: leave out pictures that do not decode.
        stream: read pictures from a file, batch by batch; None where they would fill a quarter of the memory.
        observer: hears of progress.
        device: ``cuda``, ``cpu`` …
        devices: how many train together, a process each; the script then guards its entry with
            ``if __name__ == "__main__":``.
        accelerator: ``cpu`` or ``gpu``.
        model_kwargs: for the net's factory, such as ``width=0.25``.
    """
    if not isinstance(defense, Defense):
        raise UsageError(f"expected a Defense, got {defense!r}: pass one of splitveil.defenses, such as cem()")
    live = as_source(data, Reading(stream=stream, skip_corrupt=skip_corrupt, size=size))
    named = "live" if live is not None else str(data)
    spec = make_spec(
        named,
        model=model,
        model_kwargs=model_kwargs,
        defense=PlugInSpec.model_validate(defense.to_json()),
        recipe=load_recipe(recipe or default_recipe(guess_source(named)[0])),
        seed=seed,
        limit=limit,
        training=training,
        task=task,
        weights=weights,
        size=size,
        skip_corrupt=skip_corrupt,
        stream=stream,
    )
    return train_run(
        spec,
        Path(out),
        observer=observer,
        device=device,
        trusted=spec.model.factory,
        data=None if live is None else load_data_spec(spec.data, observer, live),
        devices=devices,
        accelerator=accelerator,
    )


def attack(
    run: RunRecord | str | Path,
    name: str = "decoder",
    *,
    threat: ThreatModel | None = None,
    seed: int = 0,
    observer: Observer | None = None,
    device: str | None = None,
    data: Any = None,
    **params: Any,
) -> AttackResult:
    """Attack a run and add the result to its record; `data` is what was passed to `train`, if that was no name."""
    if threat is not None and not isinstance(threat, ThreatModel):
        raise UsageError(f"expected a ThreatModel, got {threat!r}: pass  ThreatModel.preset('black_box'), or another")
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    return attack_run(
        record,
        PlugInSpec(name=name, params=params),
        threat=threat,
        seed=seed,
        observer=observer,
        device=device,
        data=reload(record, data, observer),
    )


def reload(record: RunRecord, data: Any = None, observer: Observer | None = None) -> LoadedData:
    """The pictures of a run: read again, or passed again where they were in somebody's memory.

    Raises:
        MissingDataError: they must be passed again.
        InputError: others than those of the run.
    """
    held = record.spec.data
    return load_data_spec(held, observer, as_source(data, Reading(None, held.stream, held.skip_corrupt, held.size)))


def load_model(run: RunRecord | str | Path, *, model: str | None = None, data: Any = None) -> SplitModel:
    """The trained split model of a run.

    Args:
        run: a record or its folder.
        model: a factory outside splitveil, as a sign that its code is trusted.
        data: what was passed to `train`, if that was no name.
    """
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    if not record.finished:
        raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    return load_run_model(record, reload(record, data), trusted=model)
