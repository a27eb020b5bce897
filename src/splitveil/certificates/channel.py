"""The noisy channel of a run: what pictures become before the noise, and how much of it there is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.bounds.fisher import Moments
from splitveil.data.loader import Pictures
from splitveil.errors import ContractError, SpecError
from splitveil.split_model import SplitModel

__all__ = ["Channel", "Features"]

_BATCH = 512
_CONSTANT = 1e-6  # relative spread of a deviation over pictures that is a rounding error


@dataclass(frozen=True)
class Features:
    """Noise-free features of some pictures.

    Args:
        mean: ``(n, q)`` float32.
        labels: ``(n,)`` int64.
    """

    mean: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Channel:
    """The Gaussian stage of a model: ``N(m(x), diag s(x)^2)``; whatever follows it tells no more.

    Args:
        model: in evaluation mode.
        std: ``(q,)`` s, where it does not depend on the picture; None where it does.
        box: the interval that m is clipped to, None without a clip.
        ball: the l2 norm that m is clipped to, None without such a clip.
    """

    model: SplitModel
    std: Tensor | None
    box: tuple[float, float] | None
    ball: float | None = None

    @classmethod
    def of(cls, model: SplitModel, pictures: Pictures) -> Channel | None:
        """The channel of a model, None where it declares no Gaussian noise.

        Args:
            model: in evaluation mode.
            pictures: some, to see whether the noise depends on them.

        Raises:
            SpecError: a deviation of zero.
        """
        x, _ = next(pictures.batches(_BATCH))
        with torch.no_grad():
            found = model.features(x)[1]
        if found is None:
            return None
        std = found.std.double().expand(found.mean.shape).flatten(1)
        if not bool((std > 0).all()):
            raise SpecError("expected noise with a deviation above 0 everywhere, got 0: its information is unbounded")
        constant = bool(((std.amax(0) - std.amin(0)) <= _CONSTANT * std.amax(0)).all())
        return cls(model, std.mean(0) if constant else None, found.box, found.ball)

    @property
    def width(self) -> float | None:
        """Of the box."""
        return None if self.box is None else self.box[1] - self.box[0]

    @property
    def moments(self) -> Moments:
        """Pictures to mean and deviation, flattened, differentiable."""

        def moments(x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.model.features(x)[1]
            if found is None:
                raise ContractError("expected the Gaussian stage that the mechanism declared before, got none")
            mean = found.mean.flatten(1)
            return mean, found.std.expand(found.mean.shape).flatten(1)

        return moments

    def features(self, pictures: Pictures) -> Features:
        """Of all these pictures."""
        means, labels = list[Tensor](), list[Tensor]()
        with torch.no_grad():
            for x, y in pictures.batches(_BATCH):
                means.append(self.moments(x)[0].float())
                labels.append(y)
        return Features(torch.cat(means), torch.cat(labels))
