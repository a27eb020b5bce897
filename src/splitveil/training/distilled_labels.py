"""Labels, and beside them the soft answers of the original model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from splitveil.errors import SpecError
from splitveil.metrics.labels import accuracy
from splitveil.training.distillation import Distillation
from splitveil.training.tasks import Classification

__all__ = ["DistilledClassification"]


class DistilledClassification(Distillation):
    """Cross-entropy and, by a share, divergence from the original's soft answers; top-1 accuracy.

    ```
    loss = (1 - a) CE(output, y) + a T^2 KL( softmax(teacher / T) || softmax(output / T) )
    score = [argmax output = y]
    ```

    An undefended model knows more of a picture's class than its label says: who else it looks like. The head need not
    release more for the tail to learn that, so a defense costs less accuracy. Penalties that work by class see labels.

    Args:
        classes: k, of the original model.
        temperature: T > 0.
        share: a in [0, 1] of the divergence.

    Raises:
        SpecError: a share outside of [0, 1].

    Reference:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (arXiv 1503.02531), section 2.

    Example:
        >>> task = DistilledClassification(2, share=0.5).attach(torch.nn.Flatten())
        >>> x, y = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([1])
        >>> 2 * task.loss(torch.tensor([[1.0, 3.0]]), task.target(x, y))  # the divergence is zero
        tensor([0.1269])
    """

    score_name: ClassVar[str] = "accuracy"

    def __init__(self, classes: int, temperature: float = 4.0, share: float = 0.5) -> None:
        super().__init__(classes, temperature)
        if not 0 <= share <= 1:
            raise SpecError(f"expected a share of the original's answers in [0, 1], got {share}")
        self.share = float(share)

    def target(self, x: Tensor, y: Tensor) -> Tensor:
        """Labels and the original's logits, ``(n, 1 + k)``; labels alone, ``(n, 1)``, where there is none to ask."""
        labels = y.to(torch.float32)[:, None]
        return labels if self.teacher is None else torch.cat([labels, super().target(x, y)], 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, k)`` logits to ``(n,)`` nats.

        Raises:
            SpecError: the target lacks the original's logits.
        """
        if target.shape[1] == 1:
            raise SpecError("expected the original model to distil from, got none: pass its weights")
        hard = F.cross_entropy(output, self.groups(target), reduction="none")
        return (1 - self.share) * hard + self.share * super().loss(output, target[:, 1:])

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1 where the largest logit is the label's, else 0."""
        return accuracy(output, self.groups(target))

    def groups(self, target: Tensor) -> Tensor:
        """The labels."""
        return target[:, 0].long()

    def group(self, x: Tensor, y: Tensor) -> Tensor:
        """The labels, without a question to the original."""
        return y.long()

    def count_groups(self, classes: int) -> int:
        """The classes of the pictures, of which the original may know more."""
        return classes

    def chance(self, classes: int) -> float | None:
        """One in k, of the pictures."""
        return 1 / classes

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """One score per class of the original, which knows the classes of the pictures."""
        super().check_output(shape, classes)
        if classes > self.classes:
            raise SpecError(
                f"expected an original model that knows the {classes} classes of the pictures, got one of "
                f"{self.classes}: distil without labels, or pass weights of another"
            )

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """One output per class of the pictures, which must have labels."""
        return Classification.facts(source, train, {})
