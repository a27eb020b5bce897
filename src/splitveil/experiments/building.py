"""From a spec to a model: the factory, then the defense's surgery, mechanism and penalties."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from splitveil.contracts import Task, Weighted
from splitveil.data.rows import channel_statistics
from splitveil.data.splits import Splits
from splitveil.data.tables import Source
from splitveil.defenses import Defense, load_defense
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import SpecError
from splitveil.modes import evaluating
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.registry import MODELS, build, load_attribute
from splitveil.rng import Rng
from splitveil.specs import ModelSpec, RunSpec
from splitveil.split_model import SplitModel
from splitveil.training.tasks import Classification, make_task

__all__ = [
    "BuiltRun",
    "build_parts",
    "build_protected",
    "build_run",
    "count_groups",
    "check_fit",
    "complete_kwargs",
    "factory_target",
    "trusted_factory",
]

BuiltRun = tuple[SplitModel, tuple[Weighted, ...], Defense]
"""What a run trains, and the defense that says how."""


def factory_target(model: str) -> str:
    """The factory ``package.module:function`` of a registered name, or the text itself if it has that form."""
    return model if ":" in model else MODELS.entry(model).target


def trusted_factory(model: ModelSpec, trusted: str | None) -> Any:
    """Import the factory of a spec, once it is known that its code may run.

    Args:
        model: factory and keyword arguments.
        trusted: a factory outside splitveil that the user named; a spec alone is not allowed to run foreign code.

    Raises:
        SpecError: no factory, another than the user named, or a foreign one that the user did not name.
    """
    target = trusted or model.factory
    if target is None:
        raise SpecError(
            "this run was made with a live model and names no factory: pass --model package.module:function"
        )
    if model.factory not in (None, target):
        raise SpecError(f"the run was made with the factory '{model.factory}', got '{target}'")
    if target != trusted and target not in {entry.target for entry in MODELS}:
        raise SpecError(
            f"the model comes from '{target}', which is code outside splitveil: if you trust it, pass  --model {target}"
        )
    return load_attribute(target)


def complete_kwargs(
    model: ModelSpec, source: Source, splits: Splits, trusted: str | None = None, outputs: int | None = None
) -> ModelSpec:
    """Fill in what the data decides: classes, picture shape, channel means and standard deviations of the train split.

    Only what the factory names and the spec leaves open is filled in. `outputs` stands for the classes of tasks other
    than classification; without it, classes stay open.

    Raises:
        SpecError: see `trusted_factory`.
    """
    if model.factory is None:
        return model
    mean, std = channel_statistics(splits.train.images)
    known = inspect.signature(trusted_factory(model, trusted)).parameters
    facts: dict[str, Any] = {
        "classes": outputs,
        "input_shape": list(source.input_shape),
        "mean": [round(value, 6) for value in mean],
        "std": [round(max(value, 1e-3), 6) for value in std],
    }
    open_facts = {
        key: value for key, value in facts.items() if key in known and key not in model.kwargs and value is not None
    }
    return ModelSpec(factory=model.factory, kwargs={**model.kwargs, **open_facts})


def build_parts(model: ModelSpec, rng: Rng, trusted: str | None = None) -> SplitParts:
    """Call the factory of a spec.

    Args:
        model: factory and keyword arguments.
        rng: key of the initial weights.
        trusted: a factory outside splitveil that the user named; a spec alone is not allowed to run foreign code.

    Raises:
        SpecError: see `trusted_factory`; a keyword that the factory does not have, or another result.
    """
    factory, target = trusted_factory(model, trusted), trusted or model.factory
    with rng.scoped():
        parts = build(factory, model.kwargs, f"model '{target}'")
    if not isinstance(parts, SplitParts):
        raise SpecError(f"expected '{target}' to return SplitParts(head, tail, …), got {type(parts).__name__}")
    return parts


def build_protected(
    parts: SplitParts, defense: Defense, classes: int, rng: Rng
) -> tuple[SplitModel, tuple[Weighted, ...]]:
    """Parts under a defense: its surgery, its mechanism and its penalties."""
    with rng.child("surgery").scoped():
        model = defense.prepare(SplitModel(parts, Identity()))
    with rng.child("defense").scoped():
        mechanism, penalties = defense.build(model.feature_spec, classes, rng.child("defense"), model.input_shape)
    return model.with_mechanism(mechanism, defense.codec), penalties


def build_run(spec: RunSpec, classes: int, trusted: str | None = None, parts: SplitParts | None = None) -> BuiltRun:
    """Everything that a run trains: untrained, or from the parts of a trained model."""
    defense = load_defense(spec.defense.name, spec.defense.params)
    rng = Rng(spec.seed)
    if parts is None:
        parts = build_parts(spec.model, rng.child("init"), trusted)
    return *build_protected(parts, defense, classes, rng), defense


def count_groups(spec: RunSpec, classes: int) -> int:
    """Of how many groups penalties are told, in a run whose spec is complete and whose data has so many classes."""
    return make_task(spec.learns).count_groups(classes)


def check_fit(model: SplitModel, source: Source, task: Task | None = None) -> None:
    """Pass two blank pictures through a model, so that one that does not fit the data fails before it is trained.

    Raises:
        SpecError: the model is for pictures of another shape, or its output does not fit the task; classification by
            default.
    """
    if tuple(model.input_shape) != source.input_shape:
        raise SpecError(
            f"expected a model for pictures of shape {source.input_shape}, got one for {tuple(model.input_shape)}: "
            "leave its input_shape out, the pictures decide it"
        )
    pictures = torch.zeros(2, *source.input_shape)
    noises = model.draw(SeededNoise(Rng(0)), len(pictures), pictures.device)
    try:
        with evaluating(model), torch.no_grad():
            shape = tuple(model(pictures, noises).output.shape)
    except RuntimeError as error:  # parts of a foreign factory that do not fit each other
        reason = str(error).splitlines()[0]
        raise SpecError(
            f"the model cannot take pictures of shape {source.input_shape}: {reason}; make its parts fit"
        ) from error
    (task or Classification()).check_output(shape, source.classes)
