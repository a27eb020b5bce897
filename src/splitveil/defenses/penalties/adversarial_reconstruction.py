"""Adversarial representation learning: the head hides from an inverse network that learns beside it."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import (
    ALONE,
    Comm,
    FeatureSpec,
    FeatureStream,
    Penalty,
    PenaltyContext,
    Terms,
    Trace,
    positive,
)
from splitveil.defenses.penalties.adversary import Adversary
from splitveil.errors import SpecError, UnknownNameError
from splitveil.metrics.functional import similarity_for_training
from splitveil.nets.inversion import ResidualDecoder
from splitveil.rng import Rng

__all__ = ["AdversarialReconstruction", "Likeness", "Reads"]

Likeness = Literal["ssim", "rmse"]
Reads = Literal["feature", "release"]

_LEAST = 1e-12  # a mean squared error, whose root has a slope


class AdversarialReconstruction(Penalty):
    """``mean_i relu(SSIM(g(z_i), x_i) - threshold)``: what an inner decoder g rebuilds beyond a threshold.

    ```
    each step:   g <- g - Adam step of (1 - SSIM(g(z), x)), or of its squared error     z without gradient
                 head <- task + weight * relu(SSIM(g(z), x) - threshold)                g frozen, in evaluation mode
    ```

    With ``likeness='rmse'`` the term is ``relu(threshold - |g(z) - x|_2 / sqrt(d))``, d values per picture: it pushes
    the error up to the threshold and no further. A norm, not its square, whose gradient fades where g errs little: a
    weight of w is PATROL's beta of ``w / sqrt(d)``. g first learns alone, by its squared error or similarity, on
    pictures of the training set, from the features of the head as it begins.

    Args:
        spec: of z.
        picture: ``(c, h, w)``.
        likeness: ``ssim`` (ResSFL) or ``rmse`` (PATROL), pixel units.
        threshold: of the likeness; beyond it the head is not pushed.
        reads: ``feature``, z as in ResSFL, or ``release``, r with its noise.
        channels: of g.
        blocks: residual blocks of g.
        lr: of g's Adam.
        pretrain: passes over the training set before the first step, where g reads features.

    Reference:
        Li et al.: ResSFL, CVPR 2022 (arXiv 2205.04007), eq. 3 to 5; Ding et al.: PATROL, WACV 2024, eq. 5.
    """

    ready: Tensor

    def __init__(
        self,
        spec: FeatureSpec,
        picture: tuple[int, ...],
        *,
        likeness: Likeness = "ssim",
        threshold: float = 0.5,
        reads: Reads = "feature",
        channels: int = 32,
        blocks: int = 2,
        lr: float = 1e-3,
        pretrain: int = 3,
    ) -> None:
        super().__init__()
        for what, value, choices in (("likeness", likeness, Likeness), ("reading", reads, Reads)):
            if value not in get_args(choices):
                raise UnknownNameError(what, str(value), get_args(choices))
        if not 0 <= threshold < 1 or pretrain < 0:
            raise SpecError(f"expected 0 <= threshold < 1 and pretrain >= 0, got {threshold} and {pretrain}")
        self.likeness, self.threshold, self.reads, self.pretrain = likeness, float(threshold), reads, pretrain
        decoder = ResidualDecoder(spec, picture, channels=channels, blocks=blocks)
        self.adversary = Adversary(decoder, positive(lr, "lr"))
        self.register_buffer("ready", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_spec(
        cls, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...], **params: Any
    ) -> AdversarialReconstruction:
        """For features of this spec."""
        with rng.scoped():
            return cls(spec, picture, **params)

    def on_epoch(self, features: FeatureStream) -> dict[str, float]:
        """Before the first epoch, let the decoder learn from the features as they are; never from other pictures."""
        if int(self.ready) or self.reads == "release":
            return {}
        loss = torch.zeros(())
        for _ in range(self.pretrain):
            for batch in features:
                loss = self._learn(batch.z, batch.pictures)
        self.ready.fill_(1)
        return {"pretrained_loss": float(loss)} if self.pretrain else {}

    def on_step(self, trace: Trace, context: PenaltyContext) -> None:
        """One step of the decoder."""
        self._learn(self._read(trace).detach(), trace.x, context.comm)

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, a mean over samples, with gradient to what the decoder reads."""
        alike = self._alike(self.adversary(self._read(trace)), trace.x)
        beyond = alike - self.threshold if self.likeness == "ssim" else self.threshold - alike
        return {"adversarial_reconstruction": functional.relu(beyond).mean()}

    def inspect(self, trace: Trace, context: PenaltyContext) -> dict[str, Tensor]:
        """The likeness that the decoder reaches on held-out pictures."""
        return {"alike": self._alike(self.adversary(self._read(trace)), trace.x)}

    def ledger(self, values: Any) -> dict[str, float]:
        """Its mean."""
        return {f"adversary_{self.likeness}": float(values["alike"].double().mean())}

    def _read(self, trace: Trace) -> Tensor:
        return trace.z if self.reads == "feature" else trace.r

    def _learn(self, r: Tensor, x: Tensor, comm: Comm = ALONE) -> Tensor:
        def loss(decoder: nn.Module) -> Tensor:
            drawn = decoder(r)
            return 1 - similarity_for_training(drawn, x).mean() if self.likeness == "ssim" else _mse(drawn, x).mean()

        return self.adversary.learn(loss, comm)

    def _alike(self, drawn: Tensor, x: Tensor) -> Tensor:
        """``(n,)``."""
        if self.likeness == "ssim":
            return similarity_for_training(drawn, x)
        return _mse(drawn, x).clamp_min(_LEAST).sqrt()


def _mse(drawn: Tensor, x: Tensor) -> Tensor:
    return (drawn - x).square().flatten(1).mean(1)
