"""The Fisher family for a run: slopes of its features, and the score of its pictures by score matching."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.bounds import Estimate, continuity, fisher_rows, spectrum, unbiased, van_trees
from splitveil.bounds.entropy import PrincipalAxes
from splitveil.certificates.channel import Channel
from splitveil.data.loader import Pictures
from splitveil.errors import SpecError, TrainingError
from splitveil.rng import Rng

__all__ = ["ScoreNet", "SlopeSettings", "fit_score", "slope_estimates"]

_CHUNK = 32
_TESTED = 8  # pictures and directions that the slopes are held against steps
_SMOOTH = 0.1
_LIMIT = 3.09  # normal quantile of 99.9 %


@dataclass(frozen=True)
class SlopeSettings:
    """How to estimate.

    Args:
        smoothing: standard deviation of the noise that is added to pictures, so that they have a score.
        directions: principal axes that the spectrum is taken along; those beyond count nothing.
        pictures: that slopes are taken at; the matrix of all directions is inverted on half of them, so that they
            should be several times as many.
        probes: random directions per picture for the trace.
        epochs: of the score's network.
        channels: of the network.
    """

    smoothing: float = 0.02
    directions: int = 64
    pictures: int = 512
    probes: int = 8
    epochs: int = 12
    channels: int = 16

    def __post_init__(self) -> None:
        if min(self.directions, self.probes, self.epochs, self.channels) < 1 or self.pictures < 2:
            raise SpecError(f"expected directions, probes, epochs, channels >= 1 and pictures >= 2, got {self}")
        if not 0 < self.smoothing < math.inf:
            raise SpecError(f"expected smoothing > 0, got {self.smoothing}: without noise pictures have no score")


class ScoreNet(nn.Module):
    """The noise in a picture: ``grad ln p(y) = - noise(y) / s`` where it has learned all there is to learn.

    ```
    y - conv C - ReLU - 4 x [ conv C, dilated 1 2 4 1 - ReLU, residual ] - conv c
    ```

    Args:
        image_channels: c.
        channels: C.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.middle = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=spread, dilation=spread) for spread in (1, 2, 4, 1)
        )
        self.last = nn.Conv2d(channels, image_channels, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        """``(n, c, h, w)`` to the same."""
        x = functional.relu(self.first(y))
        for layer in self.middle:
            x = x + functional.relu(layer(x))
        noise: Tensor = self.last(x)
        return noise


def fit_score(pictures: Pictures, settings: SlopeSettings, rng: Rng) -> ScoreNet:
    """Denoising score matching: minimise ``E |noise(x + s n) - n|^2``.

    Raises:
        TrainingError: it diverged.

    Reference:
        Vincent 2011.
    """
    with rng.child("weights").scoped():
        net = ScoreNet(pictures.get(torch.arange(1))[0].shape[1], settings.channels).to(pictures.device)
    parameters = list(net.parameters())
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    batches = max(1, len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * batches)
    loss = torch.zeros(())
    for epoch in range(settings.epochs):
        order = torch.randperm(len(pictures), generator=rng.child("order", epoch).generator())
        for step, indices in enumerate(order.tensor_split(batches)):
            x = pictures.get(indices)[0]
            noise = torch.randn(x.shape, generator=rng.child("noise", epoch, step).generator()).to(x)
            loss = functional.mse_loss(net(x + settings.smoothing * noise), noise)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimiser.step()
            schedule.step()
    if not bool(loss.isfinite()):
        raise TrainingError("the network that learns the score of pictures diverged: raise smoothing")
    return net.requires_grad_(False).eval()


def slope_estimates(
    channel: Channel,
    learned_from: Pictures,
    held_out: Pictures,
    axes: PrincipalAxes,
    settings: SlopeSettings,
    *,
    observations: int = 1,
    rng: Rng,
) -> list[Estimate]:
    """``fisher``, ``spectrum`` and ``unbiased`` for pictures that are smoothed by a little noise.

    Args:
        channel: of the model.
        learned_from: pictures that the score is learned from.
        held_out: others, that the bounds are taken on.
        axes: of pictures.
        settings: how.
        observations: n.
        rng: of noise, probes and network.

    Raises:
        SpecError: the features jump, so that slopes say nothing.
    """
    count = min(settings.pictures, len(held_out))
    x = held_out.get(torch.linspace(0, len(held_out) - 1, count).round().long())[0]
    y = x + settings.smoothing * torch.randn(x.shape, generator=rng.child("smoothing").generator()).to(x)
    d = x[0].numel()
    k = min(settings.directions, d)
    directions = axes.directions[:, :k].T.reshape(k, *x.shape[1:]).to(x)
    jumps = float(continuity(channel.moments, y[:_TESTED], directions[:_TESTED]).median())
    if jumps > _SMOOTH:
        raise SpecError(
            f"expected features that change with their slopes, got steps that miss them by {jumps:.0%}: a release "
            "that jumps (quantised, top-k) has no Fisher information; leave the Fisher family out"
        )
    net = fit_score(learned_from, settings, rng.child("score"))
    with torch.no_grad():
        score = torch.cat([-net(part) / settings.smoothing for part in torch.split(y, _CHUNK)]).flatten(1)
    rows = torch.cat([fisher_rows(channel.moments, part, directions) for part in torch.split(y, _CHUNK)])
    along = score @ directions.flatten(1).T
    bound = spectrum(rows, along, d, observations)
    probes = torch.randn((count, settings.probes, *x.shape[1:]), generator=rng.child("probes").generator()).to(x)
    traces = torch.cat(
        [
            fisher_rows(channel.moments, part, own).square().sum(2).mean(1)
            for part, own in zip(torch.split(y, _CHUNK), torch.split(probes, _CHUNK), strict=True)
        ]
    )
    norms = score.square().sum(1)
    smoothed = f"pictures have Gaussian noise of standard deviation {settings.smoothing:g} added before the head"
    assumptions = (
        "noise is drawn anew, independently, for every release",
        smoothed,
        f"features change with their slopes (checked: steps miss them by {jumps:.1%})",
    )
    score_by = f"the score of pictures, by denoising score matching on {len(learned_from)} pictures"

    def told(
        name: str, value: float, low: float, high: float, reference: str, rests_on: str, quantity: str = "mse"
    ) -> Estimate:
        return Estimate(
            name, quantity, ">=", value, "", assumptions, reference, observations, 1.0, count,
            rests_on=rests_on, low=low, high=high,
        )  # fmt: skip

    free = unbiased(traces, d, observations)
    trace = van_trees(traces, norms, d, observations)
    spread = _LIMIT * float((observations * traces + norms).double().std()) / math.sqrt(count)
    total = d / trace
    error = _LIMIT * float(bound.terms.std()) / math.sqrt(len(bound.terms))
    return [
        told(
            "fisher",
            _without(trace, settings),
            _without(d / (total + spread), settings),
            _without(d / max(total - spread, 1e-30), settings),
            "van Trees 1968; Gill and Levit 1995, (11)",
            score_by,
        ),
        told(
            "spectrum",
            _without(bound.value, settings),
            _without(bound.value - error, settings),
            _without(bound.value + error, settings),
            "van Trees in matrix form, two-fold variational",
            f"{score_by}, along {k} principal axes",
        ),
        told(
            "unbiased",
            free,
            free,
            free,
            "Cramér-Rao; Hannun et al. 2021 (dFIL)",
            "slopes at held-out pictures",
            "mse of unbiased attackers only",
        ),
    ]


def _without(mse: float, settings: SlopeSettings) -> float:
    """From the error of smoothed pictures to that of the pictures: ``(sqrt(xi) - s)^2``, by Minkowski."""
    return max(0.0, math.sqrt(max(mse, 0.0)) - settings.smoothing) ** 2
