"""The Python tour: factory, protect, train, attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitveil.contracts import Stage
from splitveil.data.sources import guess_source
from splitveil.defenses import Defense
from splitveil.errors import SpecError, UsageError
from splitveil.experiments.attacking import attack_run
from splitveil.experiments.attacking import load_model as load_run_model
from splitveil.experiments.building import build_parts, build_protected, factory_target
from splitveil.experiments.devices import Accelerator
from splitveil.experiments.recipes import Recipe, load_recipe
from splitveil.experiments.training import load_data_spec, train_run
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

__all__ = ["attack", "default_recipe", "factory", "load_model", "make_spec", "objective", "protect", "train"]


def factory(model: str, *, seed: int = 0, **kwargs: Any) -> SplitParts:
    """Build a registered net, or ``package.module:function``, in parts.

    Example:
        >>> factory("small", classes=10, input_shape=(1, 8, 8)).input_shape
        (1, 8, 8)
    """
    target = factory_target(model)
    return build_parts(ModelSpec(factory=target, kwargs=kwargs), Rng(seed).child("init"), trusted=target)


def protect(parts: SplitParts, defense: Defense, *, classes: int, seed: int = 0) -> tuple[SplitModel, Objective]:
    """A split model under a defense and its objective, for a training loop of your own.

    Call ``objective.start_epoch(features)`` before each epoch where the defense has penalties that refit.
    """
    model, penalties = build_protected(parts, defense, classes, Rng(seed).child("init"))
    return model, Objective(model, Classification(), penalties, Rng(seed).child("train"))


def objective(parts: SplitParts, defense: Defense, *, classes: int, epochs: int, seed: int = 0) -> OwnLoop:
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

    Raises:
        SpecError: a defense that trains in stages, which only `train` can run.
    """
    stages = defense.stages()
    if len(stages) != 1 or stages[0].before is not None or stages[0] != Stage(name=stages[0].name):
        names = ", ".join(stage.name for stage in stages)
        raise SpecError(
            f"expected a defense of one plain stage for a loop of your own, got '{defense.name}' with {names}: "
            "train it by  splitveil.train"
        )
    model, penalties = build_protected(parts, defense, classes, Rng(seed).child("init"))
    return OwnLoop(model, Classification(), penalties, classes=classes, epochs=epochs, rng=Rng(seed).child("train"))


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
) -> RunSpec:
    """A spec from a few words and a recipe."""
    source, path = guess_source(data)
    name = model or recipe.model
    facts = {
        "seed": seed,
        "data": {
            "source": source,
            "path": str(path.resolve()) if path else None,
            "limit": recipe.limit if limit is None else limit,
        },
        "model": {"factory": factory_target(name), "kwargs": {**recipe.kwargs_for(name), **(model_kwargs or {})}},
        "defense": defense,
        "training": recipe.training,
    }
    return parse(RunSpec, facts, "run")


def train(
    model: str | None,
    data: str | Path,
    defense: Defense,
    *,
    out: str | Path,
    recipe: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    observer: Observer | None = None,
    device: str | None = None,
    devices: int = 1,
    accelerator: Accelerator | None = None,
    **model_kwargs: Any,
) -> RunRecord:
    """Train a registered net, or ``package.module:function``, under a defense.

    Args:
        model: name of the net; None for the recipe's.
        data: ``digits``, or a folder of pictures or of parquet tables.
        defense: see `splitveil.defenses`.
        out: folder of the run.
        recipe: ``tiny``, ``quick`` or ``full``.
        seed: of weights, order, augmentation and noise.
        limit: the most pictures to use.
        observer: hears of progress.
        device: ``cuda``, ``cpu`` …
        devices: how many train together, a process each; the script then guards its entry with
            ``if __name__ == "__main__":``.
        accelerator: ``cpu`` or ``gpu``.
        model_kwargs: for the net's factory, such as ``width=0.25``.
    """
    if not isinstance(defense, Defense):
        raise UsageError(f"expected a Defense, got {defense!r}: pass one of splitveil.defenses, such as cem()")
    source, _ = guess_source(str(data))
    spec = make_spec(
        str(data),
        model=model,
        model_kwargs=model_kwargs,
        defense=PlugInSpec.model_validate(defense.to_json()),
        recipe=load_recipe(recipe or default_recipe(source)),
        seed=seed,
        limit=limit,
    )
    return train_run(
        spec,
        Path(out),
        observer=observer,
        device=device,
        trusted=spec.model.factory,
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
    **params: Any,
) -> AttackResult:
    """Attack a run and add the result to its record."""
    if threat is not None and not isinstance(threat, ThreatModel):
        raise UsageError(f"expected a ThreatModel, got {threat!r}: pass  ThreatModel.preset('black_box'), or another")
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    return attack_run(
        record, PlugInSpec(name=name, params=params), threat=threat, seed=seed, observer=observer, device=device
    )


def load_model(run: RunRecord | str | Path, *, model: str | None = None) -> SplitModel:
    """The trained split model of a run.

    Args:
        run: a record or its folder.
        model: a factory outside splitveil, as a sign that its code is trusted.
    """
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    if not record.finished:
        raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    return load_run_model(record, load_data_spec(record.spec.data), trusted=model)
