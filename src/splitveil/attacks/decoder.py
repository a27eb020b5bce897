"""The decoder attack: an inverse network trained on auxiliary pictures and their releases."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, FeatureSpec, Inverter, View
from splitveil.errors import InputError, SpecError
from splitveil.nets.inversion import ResidualDecoder
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Decoder", "DecoderInverter", "Standardise"]

_LAST_RATE = 1e-5
_LEAST_GAIN = 1e-3  # of the validation error, for an epoch to count as an improvement
_FITTED = 2048  # releases to which the standardisation is fitted


class Standardise(nn.Module):
    """``(r - mean) / std`` per channel: a defense that only shrinks the features must not stop an attacker.

    Args:
        release: the spec of r.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, release: FeatureSpec) -> None:
        super().__init__()
        shape = [1] * len(release.shape)
        shape[release.channel_axis] = release.shape[release.channel_axis]
        self.register_buffer("mean", torch.zeros(1, *shape))
        self.register_buffer("std", torch.ones(1, *shape))

    def fit(self, r: Tensor) -> None:
        """Take mean and standard deviation per channel from releases ``(n, *r)``."""
        axes = [axis for axis in range(r.ndim) if self.mean.shape[axis] == 1]
        self.mean.copy_(r.mean(axes, keepdim=True))
        self.std.copy_(r.std(axes, keepdim=True).clamp(min=1e-12))

    def forward(self, r: Tensor) -> Tensor:
        """``(n, *r)`` with mean 0 and standard deviation 1 per channel."""
        return (r - self.mean) / self.std


class DecoderInverter(Inverter):
    """Standardisation and the inverse network.

    Args:
        release: the spec of r.
        picture: ``(c, h, w)``.
        channels: of the network.
        blocks: residual blocks of the network.
    """

    def __init__(self, release: FeatureSpec, picture: tuple[int, ...], *, channels: int, blocks: int) -> None:
        super().__init__()
        self.standardise = Standardise(release)
        self.network = ResidualDecoder(release, picture, channels=channels, blocks=blocks)
        self.facts: dict[str, Any] = {}

    def reconstruct(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)``."""
        pictures: Tensor = self.network(self.standardise(r))
        return pictures


@dataclass(frozen=True)
class Decoder(Attack):
    """Train an inverse network g to minimise ``||g(r) - x||^2 / d`` on auxiliary pictures, r drawn anew at each step.

    A held-out share of the auxiliary pictures decides which epoch's weights are kept, and when to stop.

    Args:
        channels: of the residual blocks.
        blocks: how many.
        epochs: at the most.
        batch_size: pictures per step.
        lr: of Adam, falling along a cosine to 1e-5.
        weight_decay: of Adam.
        patience: epochs without an improvement of 0.1 % before stopping; None for never.
        val_share: of the auxiliary pictures.

    Reference:
        arXiv 2503.00383, supplement, figure 6.
    """

    name: ClassVar[str] = "decoder"
    needs: ClassVar[frozenset[Grant]] = frozenset({"query"})

    channels: int = 64
    blocks: int = 8
    epochs: int = 50
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    patience: int | None = None
    val_share: float = 0.1

    def __post_init__(self) -> None:
        if min(self.channels, self.blocks, self.epochs) < 1 or self.batch_size < 2:
            raise SpecError(f"expected channels, blocks, epochs >= 1 and batch_size >= 2, got {asdict(self)}")
        if not (self.lr > 0 and 0 < self.val_share < 1):
            raise SpecError(f"expected lr > 0 and val_share in (0, 1), got {self.lr} and {self.val_share}")

    def _fit(self, view: View, rng: Rng) -> DecoderInverter:
        return _Fit(self, attacker_view(view), rng).run()


class _Fit:
    """One fit of a decoder: the state that its epochs share."""

    def __init__(self, config: Decoder, view: AttackerView, rng: Rng) -> None:
        self.config, self.view, self.rng = config, view, rng
        pictures = view.auxiliary
        held_out = max(1, round(config.val_share * len(pictures)))
        order = torch.randperm(len(pictures), generator=rng.child("split").generator())
        self.val, self.train = order[:held_out].sort().values, order[held_out:]
        if len(self.train) < config.batch_size // 2 or len(self.train) < 2:
            raise InputError(
                f"expected at least {max(2, config.batch_size // 2)} auxiliary pictures to learn from, "
                f"got {len(self.train)}: give more pictures or a smaller batch_size"
            )
        with rng.child("init").scoped():
            self.inverter = DecoderInverter(
                view.release_spec, view.input_shape, channels=config.channels, blocks=config.blocks
            ).to(pictures.device)
        self.val_x, self.val_r = view.pairs(self.val, rng.child("validation"))
        self.history: list[dict[str, float]] = []

    def run(self) -> DecoderInverter:
        config, inverter = self.config, self.inverter
        _, first = self.view.pairs(self.train[:_FITTED], self.rng.child("standardise"))
        inverter.standardise.fit(first)
        optimizer = torch.optim.Adam(inverter.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        batches = len(self.train) // config.batch_size + (len(self.train) % config.batch_size >= 2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * batches, _LAST_RATE)
        best: Mapping[str, Tensor] = {}
        best_error, best_epoch, reference, stale = math.inf, 0, math.inf, 0
        for epoch in range(config.epochs):
            train_error = self._epoch(epoch, optimizer, schedule, batches)
            error = self._validate()
            if error < best_error:
                best_error, best_epoch, best = error, epoch, copy.deepcopy(inverter.state_dict())
            stale = 0 if error < reference * (1 - _LEAST_GAIN) else stale + 1
            reference = min(reference, error) if stale else error
            row = {"epoch": epoch, "train_mse": train_error, "val_mse": error}
            self.history.append(row)
            if self.view.progress is not None:
                self.view.progress({**row, "epochs": config.epochs})
            if config.patience is not None and stale >= config.patience:
                break
        if not best:
            raise InputError("expected a finite validation error of the decoder, got NaN: lower its lr")
        inverter.load_state_dict(best)
        inverter.facts = self._facts(best_error, best_epoch)
        return inverter.eval()

    def _epoch(
        self,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        batches: int,
    ) -> float:
        rng, size = self.rng.child("epoch", epoch), self.config.batch_size
        order = self.train[torch.randperm(len(self.train), generator=rng.child("order").generator())]
        total = torch.zeros((), device=self.view.auxiliary.device)
        self.inverter.train()
        for step in range(batches):
            x, r = self.view.pairs(order[step * size : (step + 1) * size], rng.child("noise", step))
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(self.inverter.reconstruct(r), x)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        return float(total) / batches

    def _validate(self) -> float:
        chunks = zip(self.val_r.tensor_split(self._parts()), self.val_x.tensor_split(self._parts()), strict=True)
        total = sum(float((self.inverter.invert(r) - x).square().mean()) * len(x) for r, x in chunks)
        return total / len(self.val)

    def _parts(self) -> int:
        return -(-len(self.val) // 512)

    def _facts(self, best_error: float, best_epoch: int) -> dict[str, Any]:
        errors = [row["val_mse"] for row in self.history]
        before = min(errors[: max(1, math.ceil(0.8 * len(errors)))])
        return {
            "history": self.history,
            "epochs_run": len(errors),
            "best_epoch": best_epoch,
            "best_val_mse": best_error,
            "stopped_early": len(errors) < self.config.epochs,
            "converged": len(errors) > 1 and best_error > 0.99 * before,
            "parameters": sum(parameter.numel() for parameter in self.inverter.parameters()),
        }
