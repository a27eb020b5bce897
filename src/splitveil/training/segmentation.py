"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from splitveil.contracts import Task
from splitveil.data.rows import chunks
from splitveil.errors import SpecError

__all__ = ["UNKNOWN", "Segmentation"]

UNKNOWN = 255
"""A pixel whose class nobody knows: it counts for nothing."""


class Segmentation(Task):
    """Cross-entropy over the known pixels of a picture, and the mean over its classes of intersection over union.

    ```
    loss  = mean of the cross-entropy over pixels with a class
    score = mean over classes c in mask or output of |A_c n B_c| / |A_c u B_c|
    ```

    Penalties that work by class see one class: give conditional entropy more ``clusters`` in its place.

    Args:
        classes: k, of pixels.

    Example:
        >>> output = torch.tensor([[[[9.0, 0.0]], [[0.0, 9.0]]]])
        >>> Segmentation(2).score(output, torch.tensor([[[0, 0]]], dtype=torch.uint8))
        tensor([0.2500])
    """

    score_name: ClassVar[str] = "mean-iou"
    moves: ClassVar[bool] = True

    def __init__(self, classes: int) -> None:
        if not 2 <= classes < UNKNOWN:
            raise SpecError(f"expected 2 to {UNKNOWN - 1} classes of pixels, got {classes}")
        self.classes = classes

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n, k, h, w)`` logits and ``(n, h, w)`` classes to ``(n,)`` nats."""
        pixels = F.cross_entropy(output, target.long(), ignore_index=UNKNOWN, reduction="none").flatten(1)
        return pixels.sum(1) / (target != UNKNOWN).flatten(1).sum(1).clamp_min(1)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n,)`` in [0, 1]; 1 for a picture without a known pixel."""
        known = (target != UNKNOWN).unsqueeze(1)
        found = F.one_hot(output.argmax(1), self.classes).movedim(-1, 1).bool() & known
        true = F.one_hot(target.long().where(known.squeeze(1), 0), self.classes).movedim(-1, 1).bool() & known
        both, either = (found & true).flatten(2).sum(2), (found | true).flatten(2).sum(2)
        present = either > 0
        shares = torch.where(present, both / either.clamp_min(1), 0.0).sum(1) / present.sum(1).clamp_min(1)
        return torch.where(present.any(1), shares, 1.0)

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """A score per class and pixel; whether the sides fit, the loss says at the first step."""
        if len(shape) != 4 or shape[1] != self.classes:
            got = ", ".join(str(side) for side in shape[1:])
            raise SpecError(
                f"expected a model with output (n, {self.classes}, h, w), got (n, {got}): cut a dense network"
            )

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """The classes of pixels, and as many outputs."""
        masks = train.targets
        if masks is None or masks.dtype != torch.uint8:
            raise SpecError("expected pictures with masks to learn segmentation, got others: see docs/data.md")
        seen = torch.zeros(256, dtype=torch.int64)
        for chunk in chunks(masks):
            seen += torch.bincount(chunk.cpu().flatten(), minlength=256)
        classes = params.get("classes") or int(torch.nonzero(seen[:UNKNOWN]).max()) + 1
        return {"classes": classes, "outputs": classes}
