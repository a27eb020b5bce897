"""Ensembler: many bodies in the cloud, of which a secret few count."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from splitveil.errors import SpecError, UnknownNameError
from splitveil.modes import device_of
from splitveil.nets.fresh import fresh_copy, renew
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

__all__ = ["BeginFinal", "BeginNetwork", "Bodies", "MultiplyBodies", "SecretSelector", "Selection"]

Selection = Literal["fixed", "per_request"]

_ALL = -1


class _Staged(nn.Module):
    """A part that works for one network of the first stage, or for all: which one is part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.active = _ALL

    def get_extra_state(self) -> Tensor:
        """The network that is trained."""
        return torch.tensor(self.active)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self.active = int(state)


class Bodies(_Staged):
    """The cloud of an ensemble: N bodies, none of which knows whether it counts; reply ``(n, N, f)``.

    Args:
        bodies: from releases to features ``(n, f)``.
    """

    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, r: Tensor) -> Tensor:
        """The answers of all bodies; zeros from those that are not trained in this stage."""
        if self.active == _ALL:
            return torch.stack([body(r) for body in self.bodies], dim=1)
        answer = self.bodies[self.active](r)
        silent = torch.zeros_like(answer)
        return torch.stack([answer if place == self.active else silent for place in range(len(self.bodies))], dim=1)


class SecretSelector(_Staged):
    """The edge's last step: the answers of the secret bodies, through a linear layer.

    ```
    fixed         logits = W [answers of the P chosen bodies]
    per_request   logits = mean over the P chosen of W_j answer_j,   chosen = P largest of standardised
                  (answers . secret key)
    ```

    With ``per_request`` the choice changes with the picture. It is a function of the answers and of a key that never
    leaves the device, so that the same answers make the same choice again; while it trains the choice is random.
    What answers have in common, such as a mean that is not zero, would choose the same bodies every time: each body's
    score is standardised by its running mean and variance in training.

    Args:
        bodies: N.
        chosen: the secret places, P of them.
        width: f of an answer.
        classes: k.
        selection: ``fixed`` or ``per_request``.
    """

    chosen: Tensor
    key: Tensor
    seed: Tensor

    def __init__(self, bodies: int, chosen: list[int], width: int, classes: int, selection: Selection) -> None:
        super().__init__()
        self.count, self.selection = len(chosen), selection
        self.register_buffer("chosen", torch.tensor(chosen))
        self.register_buffer("seed", torch.randint(2**31, ()))  # of fresh heads: how they begin stays on the device
        readers = 1 if selection == "fixed" else bodies
        inputs = len(chosen) * width if selection == "fixed" else width
        self.readers = nn.ModuleList(nn.Linear(inputs, classes) for _ in range(readers))
        if selection == "per_request":
            self.register_buffer("key", torch.randn(bodies * width, bodies))
            self.standardise = nn.BatchNorm1d(bodies, affine=False)

    def forward(self, reply: Tensor) -> Tensor:
        """``(n, N, f)`` to logits ``(n, k)``."""
        if self.selection == "fixed":
            logits: Tensor = self.readers[0](self._slots(reply).flatten(1))
            return logits
        answers = torch.stack([reader(reply[:, place]) for place, reader in enumerate(self.readers)], dim=1)
        if self.active != _ALL:
            return answers[:, self.active]
        scores = self._scores(reply)
        threshold = scores.topk(self.count, dim=1).values[:, -1:]
        mask = (scores >= threshold).to(answers.dtype)
        return (answers * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    def _scores(self, reply: Tensor) -> Tensor:
        """``(n, N)``, of which the largest are chosen."""
        if not self.training:
            standardised: Tensor = self.standardise(reply.flatten(1) @ self.key)
            return standardised
        if len(reply) > 1:  # one has no variance
            with torch.no_grad():
                self.standardise(reply.flatten(1) @ self.key)
        return torch.rand_like(reply[:, :, 0])

    def _slots(self, reply: Tensor) -> Tensor:
        """``(n, P, f)``: the chosen answers; in the first stage the one that is trained, in the first slot."""
        if self.active == _ALL:
            return reply.index_select(1, self.chosen)
        answer = reply[:, self.active]
        silent = torch.zeros_like(answer)
        return torch.stack([answer, *[silent] * (self.count - 1)], dim=1)


@dataclass(frozen=True)
class MultiplyBodies:
    """N copies of a tail, each up to its last linear layer, with fresh weights; that layer moves to the device.

    Args:
        bodies: N, at least 2.
        chosen: P, from 1 to N - 1: were all to count, nothing would be secret.
        selection: of the secret bodies.
    """

    bodies: int
    chosen: int
    selection: Selection

    def __post_init__(self) -> None:
        whole = type(self.chosen) is int and type(self.bodies) is int
        if not (whole and 1 <= self.chosen < self.bodies):
            raise SpecError(
                f"expected whole numbers 1 <= chosen < bodies, got chosen={self.chosen!r} and bodies={self.bodies!r}: "
                "pass such as chosen=2 and bodies=4"
            )
        if self.selection not in get_args(Selection):
            raise UnknownNameError("selection", str(self.selection), get_args(Selection))

    def __call__(self, model: SplitModel) -> SplitModel:
        """The model in three parts; random numbers come from torch's generator.

        Raises:
            SpecError: the tail does not end in a linear layer, or there is a finish already.
        """
        if not isinstance(model.finish, nn.Identity):
            raise SpecError("ensembler expects a model in two parts, got one with a finish of its own")
        body, last = _without_classifier(model.tail)
        copies = [fresh_copy(body) for _ in range(self.bodies)]
        chosen = torch.randperm(self.bodies)[: self.chosen].sort().values.tolist()
        selector = SecretSelector(self.bodies, chosen, last.in_features, last.out_features, self.selection)
        parts = SplitParts(model.head, Bodies(copies), model.input_shape, selector, model.feature_spec)
        return SplitModel(parts, model.mechanism, model.codec)


@dataclass(frozen=True)
class BeginNetwork:
    """Before a network of the first stage: a fresh head and classifier, and one body that answers.

    Args:
        place: of the body.
    """

    place: int

    def __call__(self, model: nn.Module) -> None:
        """Change the model in place."""
        _begin(cast(SplitModel, model), self.place, f"network {self.place}")


@dataclass(frozen=True)
class BeginFinal:
    """Before the last stage: a fresh head and classifier, and all bodies answer."""

    def __call__(self, model: nn.Module) -> None:
        """Change the model in place."""
        _begin(cast(SplitModel, model), _ALL, "final")


def _begin(model: SplitModel, active: int, name: str) -> None:
    for part in (model.tail, model.finish):
        cast(_Staged, part).active = active
    with Rng(int(cast(SecretSelector, model.finish).seed)).child(name).scoped(device_of(model)):
        renew(model.head)
        renew(model.finish)


def _without_classifier(tail: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """A copy of the tail whose last linear layer is the identity, and that layer."""
    body = copy.deepcopy(tail)
    linear = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    if not linear or not linear[-1][0]:
        raise SpecError("ensembler expects a tail that ends in a linear layer, got none to move to the edge")
    name, last = linear[-1]
    path, _, attribute = name.rpartition(".")
    setattr(body.get_submodule(path), attribute, nn.Identity())
    return body, last
