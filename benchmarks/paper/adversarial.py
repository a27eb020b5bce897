"""The paper's second attacker: its decoder, refined against a critic that tells its pictures from real ones (GMI)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import Inverter, Subject
from splitveil.data.loader import Pictures
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

__all__ = ["Critic", "refine"]

_PENALTY, _LIKENESS = 10.0, 1500.0
_CRITIC_STEPS, _CRITIC_LR, _DECODER_LR = 10, 5e-3, 5e-4
_BETAS = (0.5, 0.999)
_COSINE = 300  # epochs in which the rates would fall to zero


class Critic(nn.Module):
    """Strided convolutions to one number per picture of at least 32 x 32.

    Args:
        channels: of the pictures.
        width: of the first layer.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for number, (one, two) in enumerate(pairwise(sizes)):
            layers.append(nn.Conv2d(one, two, 5, stride=2, padding=2))
            layers += [nn.InstanceNorm2d(two, affine=True)] if number else []
            layers.append(nn.LeakyReLU(0.2))
        self.body, self.last = nn.Sequential(*layers), nn.Conv2d(sizes[-1], 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n,)``."""
        scores: Tensor = self.last(self.body(x))
        return scores.flatten(1).mean(1)


def refine(
    decoder: Inverter, subject: Subject, pictures: Pictures, *, epochs: int, batch_size: int, rng: Rng
) -> tuple[Inverter, float]:
    """Go on training a fitted decoder: ``1500 MSE - critic``, one step for ten of the critic's (WGAN-GP).

    Args:
        decoder: whose weights are changed.
        subject: that releases.
        pictures: the attacker's.
        epochs: passes over them.
        batch_size: pictures of a step.
        rng: key of order, noise and weights.

    Returns:
        The same decoder, in evaluation mode, and its mean squared error over the last epoch, on the pictures that it
        learned from.
    """
    decoder.requires_grad_(True).train()
    with rng.child("critic").scoped():
        critic = Critic(subject.input_shape[0]).to(pictures.device)
    of_critic = torch.optim.Adam(critic.parameters(), _CRITIC_LR, _BETAS)
    of_decoder = torch.optim.Adam(decoder.parameters(), _DECODER_LR, _BETAS)
    drawn = rng.child("mix").generator()
    step, error = 0, float("nan")
    for epoch in range(epochs):
        order, key = pictures.order(rng.child("order", epoch)), rng.child("noise", epoch)
        missed, share = list[Tensor](), (1 + math.cos(math.pi * epoch / _COSINE)) / 2
        for optimiser, rate in ((of_critic, _CRITIC_LR), (of_decoder, _DECODER_LR)):
            for group in optimiser.param_groups:
                group["lr"] = share * rate
        for start in range(0, len(order) - batch_size + 1, batch_size):
            x, _ = pictures.get(order[start : start + batch_size])
            with torch.no_grad():
                r = subject.release(x, noise=SeededNoise(key, start))
            step += 1
            its_turn = step % _CRITIC_STEPS == 0
            with torch.set_grad_enabled(its_turn):
                fake = decoder.reconstruct(r)
            missed.append(functional.mse_loss(fake.detach(), x))
            mix = torch.rand(len(x), 1, 1, 1, generator=drawn).to(x.device)
            between = (mix * x + (1 - mix) * fake.detach()).requires_grad_()
            [slope] = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            of_critic.zero_grad()
            (critic(fake.detach()).mean() - critic(x).mean() + _PENALTY * penalty).backward()
            of_critic.step()
            if its_turn:
                of_decoder.zero_grad()
                (_LIKENESS * functional.mse_loss(fake, x) - critic(fake).mean()).backward()
                of_decoder.step()
        error = float(torch.stack(missed).mean())
    return decoder.requires_grad_(False).eval(), error
