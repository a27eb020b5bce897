"""The shadow attack: without a query and without a pair, build a head that the cloud's tail takes for the real one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.fitting import DecoderAttack, Releases, split
from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.standardise import Standardise
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import FeatureSpec, View
from splitveil.errors import SpecError
from splitveil.nets.plain import PlainEncoder
from splitveil.rng import Rng
from splitveil.stepping import take_step
from splitveil.threats import Grant

__all__ = ["ANSWERS", "Learned", "Shadow", "Substitute", "kernel_discrepancy"]

ANSWERS = 3
"""Axes of a reply that holds the answers of several bodies."""

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, in multiples of the mean squared distance
_CALIBRATION = 256  # pictures that the fresh substitute is scaled by
_UNKNOWN_CLASSES = 10  # that an attacker without labels supposes
_FIRST_SPREAD = 0.3  # of the substitute's noise, in standard deviations of a channel


@dataclass(frozen=True)
class Shadow(DecoderAttack):
    """Train a substitute head on auxiliary pictures, then invert that.

    ```
    x (auxiliary) --[ substitute ]-- r' --[ tail ]-- reply        loss = task(reply, y) + a MMD(r', r overheard)
    x (auxiliary), r' --[ decoder ]-- used on the real releases
    ```

    The tail must work on the substitute's releases, and these must be distributed like the ones that passed the wire.
    The task is cross-entropy where its labels are granted; without them the tail should be sure, and sure of different
    things. Where the reply is the answers of several bodies ``(n, N, f)``, a linear layer of the attacker's own reads
    them. The substitute learns the noise of the releases along with them. It has the real head's architecture where
    that is granted, a plain encoder's otherwise.

    Args:
        match: a.
        shadow_epochs: passes over the auxiliary pictures to train the substitute.
        shadow_lr: of Adam.
        shadow_batch: pictures, and overheard releases, in a step.

    Raises:
        SpecError: a value out of range.

    Reference:
        He, Zhang, Lee 2019 (query-free attack); Xu et al.: FORA, CVPR 2024 (matched distributions).
    """

    name: ClassVar[str] = "shadow"
    needs: ClassVar[frozenset[Grant]] = frozenset({"tail"})

    match: float = 1.0
    shadow_epochs: int = 30
    shadow_lr: float = 2e-3
    shadow_batch: int = 128

    def __post_init__(self) -> None:
        DecoderAttack.__post_init__(self)
        if self.shadow_epochs < 1 or self.shadow_batch < 2:
            raise SpecError(f"expected shadow_epochs >= 1 and shadow_batch >= 2, got {self}")
        if not (0 < self.shadow_lr < math.inf and 0 <= self.match < math.inf):
            raise SpecError(f"expected shadow_lr > 0 and match >= 0, got {self}")

    def _fit(self, view: View, rng: Rng) -> DecoderInverter:
        held = attacker_view(view)
        learned = self._shadow(held, rng.child("shadow"), torch.arange(len(held.auxiliary)))
        inverter = self._invert(held, learned.substitute, rng)
        inverter.facts["shadow"] = learned.history
        return inverter

    def _invert(
        self, held: AttackerView, substitute: Substitute, rng: Rng, among: Tensor | None = None
    ) -> DecoderInverter:
        """A decoder that learns from pairs of the substitute, of these pictures, of all by default."""

        def release(x: Tensor, key: Rng) -> Tensor:
            with torch.no_grad():
                r: Tensor = substitute(x, key)
            return r

        def pairs(indices: Tensor, key: Rng) -> tuple[Tensor, Tensor]:
            x = held.auxiliary.get(indices)
            return x, release(x, key)

        among = torch.arange(len(held.auxiliary)) if among is None else among
        # pairs of the substitute are free, however many
        fit, val = (among[places] for places in split(len(among), len(among), self.val_share, rng))
        moved = self._moved(release)
        releases = Releases(held.auxiliary, pairs, fit, val, self.batch_size, rng, fresh=True, moved=moved)
        inverter = self._train(held, releases, rng)
        inverter.facts["fresh_noise"] = False  # what it learns from is its own, and no query
        return inverter

    def _shadow(self, view: AttackerView, rng: Rng, among: Tensor, bodies: tuple[int, ...] | None = None) -> Learned:
        """A substitute that works through these bodies of the tail, through the whole of it by default.

        Args:
            view: of the attacker.
            rng: key.
            among: indices of the auxiliary pictures to learn from.
            bodies: of a tail that has several; None for all.
        """
        observed = view.observed
        substitute = Substitute.build(view, observed, rng)
        labels = view.task_labels
        reader = _Reader(view.tail(observed[:2]), labels, bodies, rng).to(observed.device)
        learned = Learned(substitute, reader, [])
        optimiser = torch.optim.Adam([*substitute.parameters(), *reader.parameters()], lr=self.shadow_lr)
        for epoch in range(self.shadow_epochs):
            order = torch.randperm(len(among), generator=rng.child("order", epoch).generator())
            sums: dict[str, float] = {"task": 0.0, "match": 0.0}
            count = 0
            for task, match in self._losses(view, learned, among[order], rng, epoch):
                take_step(optimiser, task + self.match * match)
                sums = {"task": sums["task"] + float(task.detach()), "match": sums["match"] + float(match.detach())}
                count += 1
            learned.history.append({"epoch": epoch, **{name: value / count for name, value in sums.items()}})
        substitute.eval()
        return learned

    def _losses(
        self, view: AttackerView, learned: Learned, indices: Tensor, rng: Rng, *key: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each batch of these auxiliary pictures: that of the task, and the mismatch to releases overheard."""
        observed = view.observed
        labels = view.task_labels
        heard = _endless(len(observed), self.shadow_batch, rng.child("heard", *key))
        for step, batch in enumerate(indices.tensor_split(-(-len(indices) // self.shadow_batch))):
            r = learned.substitute(view.auxiliary.get(batch), rng.child("noise", *key, step))
            known = None if labels is None else labels[batch.to(labels.device)]
            task = _task(learned.reader(view.tail(r)), known)
            scaled = learned.substitute.scaled
            yield task, kernel_discrepancy(scaled(r), scaled(observed[next(heard)]))


class Substitute(nn.Module):
    """A head of ours, and the noise that it learned; batch norm follows the batch while it trains."""

    def __init__(self, encoder: nn.Module, scale: Standardise, release: FeatureSpec) -> None:
        super().__init__()
        self.encoder, self.scale, self.release = encoder, scale, release
        self.log_spread = nn.Parameter(torch.full_like(scale.std, math.log(_FIRST_SPREAD)))
        self.shift = nn.Parameter(torch.zeros_like(scale.mean))
        self.log_gain = nn.Parameter(torch.zeros_like(scale.std))

    @classmethod
    def build(cls, view: AttackerView, observed: Tensor, rng: Rng) -> Substitute:
        """Of the granted architecture, or a plain one; scaled as the overheard releases are."""
        scale = Standardise(view.release_spec).to(observed.device)
        scale.fit([observed])
        if view.threat.allows("architecture"):
            encoder = view.architecture(rng.child("weights"))
            with torch.no_grad():
                blank = torch.zeros(2, *view.input_shape, device=observed.device)
                fits = tuple(encoder(blank).shape[1:]) == view.release_spec.shape
        else:
            fits = False
        if not fits:  # the mechanism changes the shape, or the architecture is not granted
            with rng.child("weights").scoped():
                encoder = PlainEncoder(view.input_shape, view.release_spec)
        made = cls(encoder, scale, view.release_spec).to(observed.device).train()
        made.calibrate(view.auxiliary.get(torch.arange(min(_CALIBRATION, len(view.auxiliary)))))
        return made

    def forward(self, x: Tensor, key: Rng) -> Tensor:
        """Pictures to releases under noise of this key."""
        z = self.encoder(x)
        noise = self.scale.std * torch.randn(z.shape, generator=key.generator()).to(z)
        released: Tensor = self.log_gain.exp() * z + self.shift + self.log_spread.exp() * noise
        return released

    def calibrate(self, x: Tensor) -> None:
        """Begin with the overheard mean and spread of every channel, whatever the fresh weights make of pictures."""
        own = Standardise(self.release).to(x.device)
        with torch.no_grad():
            own.fit([self.encoder(x)])
            self.log_gain.copy_((self.scale.std / own.std).log())
            self.shift.copy_(self.scale.mean - self.log_gain.exp() * own.mean)

    def scaled(self, r: Tensor) -> Tensor:
        """Releases as rows, every channel of mean 0 and variance 1 in the overheard ones."""
        rows: Tensor = self.scale(r).flatten(1)
        return rows


class _Reader(nn.Module):
    """What the attacker makes of a reply: nothing, or logits from the answers of some bodies ``(n, N, f)``."""

    def __init__(self, reply: Tensor, labels: Tensor | None, bodies: tuple[int, ...] | None, rng: Rng) -> None:
        super().__init__()
        self.bodies, self.linear = bodies, None
        if reply.ndim == ANSWERS:
            count = reply.shape[1] if bodies is None else len(bodies)
            outputs = _UNKNOWN_CLASSES if labels is None else int(labels.max()) + 1
            with rng.child("reader").scoped():
                self.linear = nn.Linear(count * reply.shape[2], outputs)
        elif bodies is not None:
            raise SpecError(f"expected a reply of several bodies (n, N, f) to choose from, got {tuple(reply.shape)}")

    def forward(self, reply: Tensor) -> Tensor:
        """Logits ``(n, k)``."""
        if self.linear is None:
            return reply.flatten(1)
        chosen = reply if self.bodies is None else reply[:, list(self.bodies)]
        logits: Tensor = self.linear(chosen.flatten(1))
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A substitute, what reads the tail's replies to it, and the losses of each epoch."""

    substitute: Substitute
    reader: _Reader
    history: list[dict[str, Any]]


def _task(logits: Tensor, labels: Tensor | None) -> Tensor:
    if labels is not None:
        return functional.cross_entropy(logits, labels)
    shares = logits.softmax(1)
    sure = -(shares * logits.log_softmax(1)).sum(1).mean()
    spread = shares.mean(0)
    return sure + (spread * spread.clamp_min(1e-12).log()).sum()


def kernel_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy under a sum of Gaussian kernels, biased: ``mean k(a, a) + k(b, b) - 2 k(a, b)``.

    Args:
        a: ``(n, q)``.
        b: ``(m, q)``.

    Returns:
        Scalar, >= 0; 0 where both are the same rows.

    Example:
        >>> rows = torch.eye(3)
        >>> float(kernel_discrepancy(rows, rows)) < 1e-6, float(kernel_discrepancy(rows, rows + 1)) > 0.1
        (True, True)

    Reference:
        Gretton et al.: A Kernel Two-Sample Test, JMLR 2012, eq. 5.
    """
    rows = torch.cat([a, b])
    squares = torch.cdist(rows, rows).square()
    level = squares.detach().mean().clamp_min(torch.finfo(squares.dtype).tiny)
    kernels = torch.stack([(-squares / (2 * bandwidth * level)).exp() for bandwidth in _BANDWIDTHS]).mean(0)
    n = len(a)
    return kernels[:n, :n].mean() + kernels[n:, n:].mean() - 2 * kernels[:n, n:].mean()


def _endless(count: int, batch: int, rng: Rng) -> Iterator[Tensor]:
    """Indices in random order, batch after batch, for ever."""
    turn = 0
    while True:
        order = torch.randperm(count, generator=rng.child(turn).generator())
        yield from torch.split(order, batch)
        turn += 1
