"""Training: penalties, stages, tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from splitveil.contracts.values import FeatureSpec, GaussianChannel, Trace, TrainState

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = [
    "FeatureBatch",
    "FeatureStream",
    "Penalty",
    "PenaltyContext",
    "Stage",
    "Task",
    "Terms",
    "Weighted",
]


Terms = dict[str, Tensor]
"""Named scalars of a penalty, each a mean over samples where the method allows it."""


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """A chunk of the training set's features, without gradient: ``z (n, *z)``, labels ``y (n,)``, and the channel."""

    z: Tensor
    y: Tensor
    channel: GaussianChannel | None


class FeatureStream(Protocol):
    """The training set's features under the current head in evaluation mode; each pass draws the same pictures."""

    @property
    def samples(self) -> int: ...

    @property
    def classes(self) -> int: ...

    @property
    def rng(self) -> Rng: ...

    def __iter__(self) -> Iterator[FeatureBatch]: ...


@dataclass(frozen=True, slots=True)
class PenaltyContext:
    """What a penalty may read beside the trace."""

    model: nn.Module
    y: Tensor
    state: TrainState
    rng: Rng


class Penalty(nn.Module, ABC):
    """A term of the loss, in training only; it never ships. Its buffers are its state: saved and resumed."""

    @classmethod
    def from_spec(cls, spec: FeatureSpec, classes: int, rng: Rng, **params: Any) -> Penalty:
        """Build for features of this spec; override where shapes or initial values are needed."""
        return cls(**params)

    @abstractmethod
    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """Named scalars; the objective adds their sum times the weight."""

    def on_epoch(self, features: FeatureStream) -> dict[str, float]:
        """Refit before an epoch; returns facts for the event log."""
        return {}

    def on_step(self, trace: Trace, context: PenaltyContext) -> None:
        """Train an inner adversary, with an optimiser of its own, before the outer step."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A penalty, its name in logs, and its weight as a function of the state."""

    name: str
    penalty: Penalty
    weight: Callable[[TrainState], float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training: what trains, for how long, and what is done before.

    Args:
        name: in logs.
        share: of the recipe's epochs.
        parts: the attributes of the split model that train; the others are frozen, batch norm included.
        before: changes the model before the stage (prune, insert); the optimiser is built after it.
    """

    name: str = "train"
    share: float = 1.0
    parts: tuple[str, ...] = ("head", "mechanism", "tail", "finish")
    before: Callable[[nn.Module], None] | None = None


class Task(ABC):
    """What the model is for: a loss and a score, both per sample."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n,)``, lower is better."""

    @abstractmethod
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n,)`` in [0, 1], higher is better."""
