"""What a model is for: losses and scores, per sample."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from splitveil.contracts import Task
from splitveil.metrics.labels import accuracy

__all__ = ["Classification"]


class Classification(Task):
    """Cross-entropy and top-1 accuracy."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, k)`` logits and ``(n,)`` labels to ``(n,)`` nats."""
        return F.cross_entropy(output, target, reduction="none")

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1 where the largest logit is the label's, else 0."""
        return accuracy(output, target)
