"""Search among pictures that a generator draws, which has learned from auxiliary pictures what pictures are like."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from splitveil.attacks.channel import KnownChannel
from splitveil.attacks.learned_once import Learned, learn_once
from splitveil.attacks.optimise import trusted_variance
from splitveil.attacks.priors import Prior
from splitveil.attacks.search import Searching, SearchInverter
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError, TrainingError
from splitveil.nets.generator import Critic, Generator
from splitveil.rng import Rng
from splitveil.stepping import take_step
from splitveil.threats import Grant

__all__ = ["GanPrior", "GeneratorPrior"]

_BETAS = (0.5, 0.99)  # of Adam, as usual for generators
_AVERAGING = 0.99


class GeneratorPrior(Prior):
    """``x = finish(begin(w) + s offset)``: the latent w is standard normal; the offset leaves the generator's range.

    Args:
        generator: in evaluation mode.
        weight: factor of the energy.
        spread: s, of the map in the middle.
        reach: standard deviations of the offset that cost as much as those of the latent.
    """

    def __init__(self, generator: Generator, weight: float, spread: float, reach: float) -> None:
        self.generator, self.weight, self.spread, self.reach = generator, weight, spread, reach

    def draw(self, w: Tensor) -> Tensor:
        """In (0, 1)."""
        latent, offset = w[:, : self.generator.latent], w[:, self.generator.latent :]
        middle = self.generator.begin(latent) + self.spread * offset.reshape(-1, *self.generator.opening)
        return self.generator.finish(middle)

    def energy(self, w: Tensor) -> Tensor:
        """``|latent|^2 / 2 + |offset|^2 / (2 reach^2)``."""
        latent, offset = w[:, : self.generator.latent], w[:, self.generator.latent :]
        return self.weight * (latent.square().sum(1) + offset.square().sum(1) / self.reach**2) / 2

    def locate(self, x: Tensor) -> Tensor:
        """There is no latent that is known to draw a picture.

        Raises:
            SpecError: always.
        """
        raise SpecError("expected a search without a warm start under a generator, got one: leave it out")

    def start(self, n: int, generator: torch.Generator, spread: float) -> Tensor:
        """A draw of the latent, scaled; the offset begins at nothing."""
        device = next(self.generator.parameters()).device
        latent = spread * torch.randn((n, self.generator.latent), generator=generator)
        return torch.cat([latent, torch.zeros(n, math.prod(self.generator.opening))], dim=1).to(device)


@dataclass(frozen=True)
class GanPrior(Attack):
    """Train a generator on auxiliary pictures, then search its latent, and the map in its middle, for each release.

    ```
    auxiliary pictures --[ critic, generator ]-- G;      min over w, offset of |f(G(w, offset)) - r|^2 / (2 v) + energy
    ```

    The generator knows the pictures alone: it is kept in the cache, for the next audit with the same ones.

    Args:
        latent: dimensions.
        channels: of generator and critic.
        epochs: passes over the auxiliary pictures.
        batch_size: of the training.
        generator_lr: of Adam; the critic's is twice as high.
        prior_weight: factor of the energy.
        reach: how far the map in the middle may leave what the generator makes of latents; small: hardly.
        steps: of each search.
        lr: first learning rate of a search.
        restarts: searches per release; that with the least objective counts.

    Raises:
        SpecError: a value out of range.
        TrainingError: the generator diverged.

    Reference:
        Zhang et al.: GMI, CVPR 2020; Fang et al.: GIFD, ICCV 2023 (search in intermediate layers).
    """

    name: ClassVar[str] = "gan_prior"
    needs: ClassVar[frozenset[Grant]] = frozenset({"weights"})

    latent: int = 64
    channels: int = 32
    epochs: int = 40
    batch_size: int = 64
    generator_lr: float = 2e-4
    prior_weight: float = 1.0
    reach: float = 0.5
    steps: int = 300
    lr: float = 0.05
    restarts: int = 1

    def __post_init__(self) -> None:
        if min(self.latent, self.channels, self.epochs, self.steps, self.restarts) < 1 or self.batch_size < 2:
            raise SpecError(f"expected sizes, epochs, steps, restarts >= 1 and batch_size >= 2, got {self}")
        if not all(0 < value < math.inf for value in (self.generator_lr, self.reach, self.lr)):
            raise SpecError(f"expected generator_lr, reach, lr > 0, got {self}")
        if not 0 <= self.prior_weight < math.inf:
            raise SpecError(f"expected prior_weight >= 0, got {self.prior_weight}")

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        channel = KnownChannel.of(held, rng.child("channel"))
        generator, history = self._generator(held, rng.child("generator"))
        with torch.no_grad():
            drawn = generator.begin(
                torch.randn(64, self.latent, generator=rng.child("spread").generator()).to(next(generator.parameters()))
            )
        inverter = SearchInverter(
            channel,
            GeneratorPrior(generator, self.prior_weight, float(drawn.std(0).mean()), self.reach),
            trusted_variance(channel),
            Searching(self.steps, self.lr, self.restarts),
            rng.child("search"),
            misses=channel.misses,
        )
        inverter.facts = {"generator": history, "steps": self.steps, "restarts": self.restarts}
        return inverter

    def _generator(self, view: AttackerView, rng: Rng) -> tuple[Generator, list[dict[str, Any]]]:
        """The generator of these pictures, learned by now or by an earlier audit."""
        with rng.child("weights").scoped():
            generator = Generator(view.input_shape, latent=self.latent, channels=self.channels)
            critic = Critic(view.input_shape, channels=self.channels)
        device = view.auxiliary.device
        generator, critic = generator.to(device), critic.to(device)
        learning = {
            name: getattr(self, name) for name in ("latent", "channels", "epochs", "batch_size", "generator_lr")
        }
        what = Learned(self.name, learning, rng, (type(self), Generator))
        blank = copy.deepcopy(generator)
        return learn_once(what, view, blank, lambda: self._train(generator, critic, view, rng))

    def _train(
        self, generator: Generator, critic: Critic, view: AttackerView, rng: Rng
    ) -> tuple[Generator, list[dict[str, Any]]]:
        """The moving average of a generator that is trained against a critic by the hinge loss."""
        device, count = view.auxiliary.device, len(view.auxiliary)
        average = AveragedModel(generator, avg_fn=lambda held, new, _: held.lerp(new, 1 - _AVERAGING))
        drawing = torch.optim.Adam(generator.parameters(), lr=self.generator_lr, betas=_BETAS)
        judging = torch.optim.Adam(critic.parameters(), lr=2 * self.generator_lr, betas=_BETAS)
        history: list[dict[str, Any]] = []
        for epoch in range(self.epochs):
            order = torch.randperm(count, generator=rng.child("order", epoch).generator())
            sums = torch.zeros(2, dtype=torch.float64)
            batches = order.tensor_split(-(-count // self.batch_size))
            for step, indices in enumerate(batches):
                real, key = view.auxiliary.get(indices), rng.child("latent", epoch, step).generator()
                w = torch.randn((len(real), self.latent), generator=key).to(device)
                judged = (
                    functional.relu(1 - critic(real)).mean() + functional.relu(1 + critic(generator(w).detach())).mean()
                )
                take_step(judging, judged)
                drawn = -critic(generator(w)).mean()
                take_step(drawing, drawn)
                average.update_parameters(generator)
                sums += torch.stack([judged.detach(), drawn.detach()]).double().cpu()
            losses = (sums / len(batches)).tolist()
            if not all(map(math.isfinite, losses)):
                raise TrainingError(f"the generator diverged in epoch {epoch}: lower generator_lr")
            history.append({"epoch": epoch, "critic": losses[0], "generator": losses[1]})
            if view.progress is not None:
                view.progress({**history[-1], "epochs": self.epochs})
        return cast(Generator, average.module).requires_grad_(False).eval(), history
