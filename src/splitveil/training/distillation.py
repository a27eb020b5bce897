"""Pictures without labels: whatever the original model says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitveil.contracts import Task, positive
from splitveil.errors import SpecError

__all__ = ["Distillation"]


class Distillation(Task):
    """Divergence from the original model's soft answers, and how often both name the same class.

    ```
    loss = T^2 KL( softmax(teacher / T) || softmax(output / T) )      score = [argmax output = argmax teacher]
    ```

    Penalties that work by class see the class that the original names: pseudo-classes. The score says nothing about
    how often the original is right.

    Args:
        classes: k, of the original model.
        temperature: T > 0.

    Reference:
        arXiv 1503.02531.

    Example:
        >>> task = Distillation(2).attach(nn.Flatten())
        >>> x = torch.tensor([[[[1.0, 3.0]]]])
        >>> task.loss(torch.tensor([[1.0, 3.0]]), task.target(x, torch.zeros(1))).abs() < 1e-6
        tensor([True])
    """

    score_name: ClassVar[str] = "agreement"
    needs_original: ClassVar[bool] = True

    def __init__(self, classes: int, temperature: float = 2.0) -> None:
        if classes < 2:
            raise SpecError(f"expected an original model of at least two classes, got {classes}")
        self.classes, self.temperature = classes, positive(temperature, "temperature")
        self.teacher: nn.Module | None = None

    def attach(self, original: nn.Module) -> Distillation:
        """Learn from this model: pictures in [0, 1] to ``(n, k)`` logits."""
        self.teacher = original.eval().requires_grad_(False)
        return self

    def target(self, x: Tensor, y: Tensor) -> Tensor:
        """The original's logits, ``(n, k)``.

        Raises:
            SpecError: there is no original to ask.
        """
        if self.teacher is None:
            raise SpecError("expected the original model to distil from, got none: pass its weights")
        with torch.no_grad():
            logits: Tensor = self.teacher(x)
        return logits

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, k)`` logits of both to ``(n,)`` nats."""
        known, found = (F.log_softmax(logits / self.temperature, 1) for logits in (target, output))
        return self.temperature**2 * F.kl_div(found, known, reduction="none", log_target=True).sum(1)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1 where both name the same class, else 0."""
        return (output.argmax(1) == target.argmax(1)).to(torch.float32)

    def groups(self, target: Tensor) -> Tensor:
        """The class that the original names."""
        return target.argmax(1)

    def count_groups(self, classes: int) -> int:
        """The classes of the original."""
        return self.classes

    def chance(self, classes: int) -> float | None:
        """One in k."""
        return 1 / self.classes

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """One score per class of the original."""
        if len(shape) != 2 or shape[1] != self.classes:
            got = ", ".join(str(side) for side in shape[1:])
            raise SpecError(f"expected a model with output (n, {self.classes}), as the original has, got (n, {got})")

    def to(self, device: torch.device | str) -> Distillation:
        """Move the original."""
        if self.teacher is not None:
            self.teacher.to(device)
        return self

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """As many outputs as the original has, where the spec knows."""
        return {"outputs": params["classes"]} if "classes" in params else {}
