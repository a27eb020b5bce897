"""Values to be told from pictures: age, distance, dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitveil.contracts import Task
from splitveil.errors import SpecError, UnknownNameError

__all__ = ["Regression"]

Loss = Literal["squared", "absolute"]


class Regression(Task):
    """Squared or absolute error of t values, each in units of its range over the training pictures.

    ```
    e_j = (output_j - target_j) / (high_j - low_j)
    loss = mean_j e_j^2 (or |e_j|)      score = 1 - mean_j min(|e_j|, 1)
    ```

    Outputs are in the units of the targets: bring these to about [0, 1], or training takes long to get there. Penalties
    that work by class see groups of pictures between quantiles of the first value.

    Args:
        low: of each value, over the training pictures.
        high: likewise.
        edges: between the groups, rising.
        loss: ``squared`` or ``absolute``.

    Raises:
        SpecError: a value without a range.

    Example:
        >>> task = Regression([0.0], [2.0])
        >>> task.score(torch.tensor([[0.5]]), torch.tensor([[1.0]]))
        tensor([0.7500])
    """

    score_name: ClassVar[str] = "1-nmae"

    def __init__(
        self, low: Sequence[float], high: Sequence[float], edges: Sequence[float] = (), loss: Loss = "squared"
    ) -> None:
        if loss not in get_args(Loss):
            raise UnknownNameError("loss", loss, get_args(Loss))
        if not low or len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=True)):
            raise SpecError(
                f"expected low < high for every value, got {list(low)} and {list(high)}: leave out constants"
            )
        if list(edges) != sorted(set(edges)):
            raise SpecError(f"expected rising edges, got {list(edges)}")
        self.kind = loss
        self.range = torch.tensor(high, dtype=torch.float32) - torch.tensor(low, dtype=torch.float32)
        self.edges = torch.tensor(edges, dtype=torch.float64)

    def _error(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs() / self.range

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, t)`` and ``(n, t)`` to ``(n,)``."""
        error = self._error(output, target)
        return (error.square() if self.kind == "squared" else error).mean(1)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1 less the mean absolute error in units of the range, at least 0."""
        return 1 - self._error(output, target).clamp(max=1).mean(1)

    def groups(self, target: Tensor) -> Tensor:
        """Between which quantiles the first value lies."""
        return torch.bucketize(target[:, 0].double(), self.edges)

    def count_groups(self, classes: int) -> int:
        """One more than there are edges."""
        return len(self.edges) + 1

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """One output per value."""
        if len(shape) != 2 or shape[1] != len(self.range):
            got = ", ".join(str(side) for side in shape[1:])
            raise SpecError(f"expected a model with output (n, {len(self.range)}), the values, got (n, {got})")

    def to(self, device: torch.device | str) -> Regression:
        """Move ranges and edges."""
        self.range, self.edges = self.range.to(device), self.edges.to(device)
        return self

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ranges, edges, and one output per value."""
        values = train.targets
        if values is None or values.dtype != torch.float32:
            raise SpecError("expected pictures with values to learn by regression, got others: see docs/data.md")
        return {
            "low": values.amin(0).tolist(),
            "high": values.amax(0).tolist(),
            "edges": list(source.edges),
            "outputs": values.shape[1],
        }
