"""What a model is for: losses and scores, per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from splitveil.contracts import Task
from splitveil.errors import ContractError, SpecError
from splitveil.metrics.labels import accuracy
from splitveil.registry import TASKS, build
from splitveil.specs import PlugInSpec

__all__ = ["Classification", "make_task", "with_facts"]


class Classification(Task):
    """Cross-entropy and top-1 accuracy.

    Args:
        class_weights: of the loss, one per class; ``balanced`` for n / (k n_c) of the training pictures, so that every
            class weighs the same; None for 1. The score is not weighted.

    Example:
        >>> Classification([1.0, 3.0]).loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor([0.6931, 2.0794])
    """

    score_name: ClassVar[str] = "accuracy"

    def __init__(self, class_weights: Sequence[float] | Literal["balanced"] | None = None) -> None:
        if isinstance(class_weights, str):
            raise SpecError(
                f"expected class weights as numbers here, got '{class_weights}': the data decides balanced ones, pass "
                "n / (k n_c)"
                if class_weights == "balanced"
                else f"expected class_weights balanced, or one per class, got '{class_weights}'"
            )
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        if weights is not None and not (weights.ndim == 1 and bool((weights > 0).all() and weights.isfinite().all())):
            raise SpecError(f"expected class_weights > 0, one per class, got {class_weights}")
        self.class_weights = weights

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, k)`` logits and ``(n,)`` labels to ``(n,)`` nats."""
        return F.cross_entropy(output, target, weight=self.class_weights, reduction="none")

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1 where the largest logit is the label's, else 0."""
        return accuracy(output, target)

    def groups(self, target: Tensor) -> Tensor:
        """The labels."""
        return target

    def count_groups(self, classes: int) -> int:
        """The classes."""
        return classes

    def chance(self, classes: int) -> float | None:
        """One in k."""
        return 1 / classes

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """One score per class."""
        if len(shape) != 2 or shape[1] < classes:
            got = ", ".join(str(side) for side in shape[1:])
            raise SpecError(
                f"expected a model with output (n, {classes}), one score per class, got (n, {got}): "
                "leave its classes out, the pictures decide them"
            )
        if self.class_weights is not None and len(self.class_weights) != shape[1]:
            raise SpecError(f"expected {shape[1]} class_weights, one per class, got {len(self.class_weights)}")

    def to(self, device: torch.device | str) -> Classification:
        """Move the weights."""
        self.class_weights = None if self.class_weights is None else self.class_weights.to(device)
        return self

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """``outputs``, and the weights where they are to be balanced."""
        if train.targets is not None or source.classes < 2:
            beside = "nothing" if train.targets is None else "masks" if train.targets.ndim == 3 else "values"
            cure = {"nothing": "distillation", "masks": "segmentation", "values": "regression"}[beside]
            raise SpecError(f"expected pictures with labels to classify, got some with {beside}: choose task {cure}")
        found: dict[str, Any] = {"outputs": source.classes}
        if params.get("class_weights") == "balanced":
            counts = torch.bincount(train.labels, minlength=source.classes).double()
            found["class_weights"] = [round(value, 6) for value in (counts.sum() / (len(counts) * counts)).tolist()]
        return found


def make_task(spec: PlugInSpec) -> Task:
    """The task of a spec.

    Raises:
        UnknownNameError: no task of that name, or a parameter that it does not have.
        SpecError: a value that it refuses, or one that only the data decides and `with_facts` has not filled in.

    Example:
        >>> make_task(PlugInSpec(name="classification")).score_name
        'accuracy'
    """
    task = build(TASKS.load(spec.name), spec.params, f"task '{spec.name}'")
    if not isinstance(task, Task):
        raise ContractError(f"expected a Task from '{spec.name}', got {type(task).__name__}")
    return task


def with_facts(spec: PlugInSpec, source: Any, train: Any) -> tuple[PlugInSpec, int | None]:
    """The spec with what the data decides, and the number of outputs that the model needs, None where it is unknown.

    Raises:
        SpecError: the data has other targets than the task learns.
    """
    kind = cast(type[Task], TASKS.load(spec.name))
    found = kind.facts(source, train, spec.params)
    outputs = found.pop("outputs", None)
    open_ = {name: value for name, value in found.items() if spec.params.get(name) in (None, "balanced")}
    return (PlugInSpec(name=spec.name, params={**spec.params, **open_}) if open_ else spec), outputs
