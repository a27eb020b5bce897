"""The Fisher family for a run: slopes of its features, and the score of its pictures by score matching."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.bounds import Estimate, continuity, fisher_rows, spectrum, unbiased, van_trees
from splitveil.bounds.entropy import PrincipalAxes
from splitveil.bounds.fisher import SpectrumBound
from splitveil.certificates.channel import Channel
from splitveil.data.loader import Pictures
from splitveil.errors import SpecError, TrainingError
from splitveil.rng import Rng
from splitveil.stepping import take_step

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
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    batches = max(1, len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * batches)
    loss = torch.zeros(())
    for epoch in range(settings.epochs):
        order = torch.randperm(len(pictures), generator=rng.child("order", epoch).generator())
        for step, indices in enumerate(order.tensor_split(batches)):
            x = pictures.get(indices)[0]
            noise = torch.randn(x.shape, generator=rng.child("noise", epoch, step).generator()).to(x)
            loss = functional.mse_loss(net(x + settings.smoothing * noise), noise)
            take_step(optimiser, loss)
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
    jumps = _jumps(channel, y, directions)
    net = fit_score(learned_from, settings, rng.child("score"))
    with torch.no_grad():
        score = torch.cat([-net(part) / settings.smoothing for part in torch.split(y, _CHUNK)]).flatten(1)
    rows = torch.cat([fisher_rows(channel.moments, part, directions) for part in torch.split(y, _CHUNK)])
    bound = spectrum(rows, score @ directions.flatten(1).T, d, observations)
    traces, norms = _traces(channel, y, settings.probes, rng.child("probes")), score.square().sum(1)
    total, spread = _mean_and_error(observations * traces + norms)
    plain = Estimate(
        name="fisher",
        quantity="mse",
        relation=">=",
        value=_without(van_trees(traces, norms, d, observations), settings),
        unit="",
        assumptions=(
            "noise is drawn anew, independently, for every release",
            f"pictures have Gaussian noise of standard deviation {settings.smoothing:g} added before the head",
            f"features change with their slopes (checked: steps miss them by {jumps:.1%})",
        ),
        reference="van Trees 1968; Gill and Levit 1995, (11)",
        observations=observations,
        n=count,
        rests_on=f"the score of pictures, by denoising score matching on {len(learned_from)} pictures",
        low=_without(d / (total + spread), settings),
        high=_without(d / max(total - spread, 1e-30), settings),
    )
    return [plain, _along_axes(plain, bound, k, settings), *_of_unbiased(plain, unbiased(traces, d, observations))]


def _along_axes(plain: Estimate, bound: SpectrumBound, axes: int, settings: SlopeSettings) -> Estimate:
    error = _mean_and_error(bound.terms)[1]
    return replace(
        plain,
        name="spectrum",
        value=_without(bound.value, settings),
        reference="van Trees in matrix form, two-fold variational",
        rests_on=f"{plain.rests_on}, along {axes} principal axes",
        low=_without(bound.value - error, settings),
        high=_without(bound.value + error, settings),
    )


def _of_unbiased(plain: Estimate, value: float) -> list[Estimate]:
    """None where a release does not change with the picture, since then there is no unbiased attacker to bound."""
    if math.isinf(value):
        return []
    found = replace(
        plain,
        name="unbiased",
        quantity="mse of unbiased attackers only",
        value=value,
        reference="Cramér-Rao; Hannun et al. 2021 (dFIL)",
        rests_on="slopes at held-out pictures",
        low=value,
        high=value,
    )
    return [found]


def _jumps(channel: Channel, y: Tensor, directions: Tensor) -> float:
    """How far steps miss the slopes, a median over some pictures and directions.

    Raises:
        SpecError: so far that slopes say nothing.
    """
    jumps = float(continuity(channel.moments, y[:_TESTED], directions[:_TESTED]).median())
    if jumps > _SMOOTH:
        raise SpecError(
            f"expected features that change with their slopes, got steps that miss them by {jumps:.0%}: a release "
            "that jumps (quantised, top-k) has no Fisher information; leave the Fisher family out"
        )
    return jumps


def _traces(channel: Channel, y: Tensor, probes: int, rng: Rng) -> Tensor:
    """``(n,)``, unbiased estimates of Tr F at pictures, by random directions of each picture's own."""
    directions = torch.randn((len(y), probes, *y.shape[1:]), generator=rng.generator()).to(y)
    parts = zip(torch.split(y, _CHUNK), torch.split(directions, _CHUNK), strict=True)
    return torch.cat([fisher_rows(channel.moments, part, own).square().sum(2).mean(1) for part, own in parts])


def _mean_and_error(terms: Tensor) -> tuple[float, float]:
    """The mean, and how far its one-sided 99.9 % limits lie from it."""
    wide = terms.double()
    return float(wide.mean()), _LIMIT * float(wide.std()) / math.sqrt(len(wide))


def _without(mse: float, settings: SlopeSettings) -> float:
    """From the error of smoothed pictures to that of the pictures: ``(sqrt(xi) - s)^2``, by Minkowski."""
    return max(0.0, math.sqrt(max(mse, 0.0)) - settings.smoothing) ** 2
