"""The paper's second attacker: its decoder, refined against a critic that tells its pictures from real ones (GMI)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import Inverter, Subject
from splitveil.data.loader import Pictures
from splitveil.noise import SeededNoise, to_device
from splitveil.rng import Rng
from splitveil.training.checkpoint import CheckpointStore, Place, gather, scatter

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
    decoder: Inverter,
    subject: Subject,
    pictures: Pictures,
    *,
    epochs: int,
    batch_size: int,
    rng: Rng,
    store: CheckpointStore | None = None,
    rest: Callable[[], None] = lambda: None,
) -> tuple[Inverter, float]:
    """Go on training a fitted decoder: ``1500 MSE - critic``, one step for ten of the critic's (WGAN-GP).

    Args:
        decoder: whose weights are changed.
        subject: that releases.
        pictures: the attacker's.
        epochs: passes over them.
        batch_size: pictures of a step.
        rng: key of order, noise and weights.
        store: of the state, from which it goes on; None for nowhere.
        rest: called after each epoch, when the state has been saved; may raise.

    Returns:
        The same decoder, in evaluation mode, and its mean squared error over the last epoch, on the pictures that it
        learned from.
    """
    decoder.requires_grad_(True).train()
    with rng.child("critic").scoped():
        critic = Critic(subject.input_shape[0]).to(pictures.device)
    of_critic = torch.optim.Adam(critic.parameters(), _CRITIC_LR, _BETAS)
    of_decoder = torch.optim.Adam(decoder.parameters(), _DECODER_LR, _BETAS)
    state = _State({"critic": (critic, of_critic), "decoder": (decoder, of_decoder)})
    place = Place() if store is None else state.load(store)
    step, error = place.step, float("nan")
    for epoch in range(place.epoch, epochs):
        order, key = pictures.order(rng.child("order", epoch)), rng.child("noise", epoch)
        drawn = rng.child("mix", epoch).generator()
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
            mix = to_device(torch.rand(len(x), 1, 1, 1, generator=drawn), x.device)
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
        if store is not None and epoch + 1 < epochs:
            state.save(store, Place(epoch=epoch + 1, step=step))
            rest()
    return decoder.requires_grad_(False).eval(), error


class _State:
    """Networks and their optimisers by name, as one checkpoint."""

    def __init__(self, parts: Mapping[str, tuple[nn.Module, torch.optim.Optimizer]]) -> None:
        self._parts = parts

    def save(self, store: CheckpointStore, place: Place) -> None:
        tensors = {
            f"{name}:{key}": value
            for name, (module, optimiser) in self._parts.items()
            for key, value in gather({"network": module}, optimiser, {}).items()
        }
        store.save(tensors, place)

    def load(self, store: CheckpointStore) -> Place:
        """Where to go on; at the start where nothing was saved."""
        found = store.load()
        if found is None:
            return Place()
        for name, (module, optimiser) in self._parts.items():
            own = {key.removeprefix(f"{name}:"): value for key, value in found[0].items() if key.startswith(f"{name}:")}
            scatter(own, {"network": module}, optimiser)
        return found[1]
