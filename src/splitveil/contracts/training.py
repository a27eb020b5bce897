"""Training: penalties, stages, tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from splitveil.contracts.comm import ALONE, Comm
from splitveil.contracts.values import FeatureSpec, GaussianChannel, Trace, TrainState, positive
from splitveil.errors import SpecError

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = [
    "Budget",
    "FeatureBatch",
    "FeatureStream",
    "Penalty",
    "PenaltyContext",
    "Stage",
    "Task",
    "Terms",
    "Weighted",
]

_ROUNDING = 1e-6  # far below one picture, far above the error of a mean in single precision

Terms = dict[str, Tensor]
"""Named scalars of a penalty, each a mean over samples where the method allows it."""


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """A chunk of the training set's features, without gradient: ``z (n, *z)``, labels ``y (n,)``, and the channel.

    ``x (n, c, h, w)`` are the pictures behind them, for penalties that train an adversary.
    """

    z: Tensor
    y: Tensor
    channel: GaussianChannel | None
    x: Tensor | None = None

    @property
    def pictures(self) -> Tensor:
        """x.

        Raises:
            SpecError: it is not there.
        """
        if self.x is None:
            raise SpecError("expected the pictures behind the features, got none: pass FeatureBatch(x=...)")
        return self.x


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
    """What a penalty may read beside the trace.

    `comm` is the other processes that hold rows of the same batch: a statistic of pairs, or of the batch, gathers its
    rows first; what a penalty draws for itself per row it draws for the whole batch, from row ``comm.first`` on.
    """

    model: nn.Module
    y: Tensor
    state: TrainState
    rng: Rng
    comm: Comm = ALONE


class Penalty(nn.Module, ABC):
    """A term of the loss, in training only; it never ships. Its buffers are its state: saved and resumed.

    Attributes:
        needs_gaussian_noise: whether it is of the Gaussian noise that the mechanism declares, and senseless without.
    """

    needs_gaussian_noise: ClassVar[bool] = False

    @classmethod
    def from_spec(cls, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...], **params: Any) -> Penalty:
        """Build for features of this spec and pictures ``(c, h, w)``; override where sizes or initial values matter."""
        return cls(**params)

    def attach(self, model: nn.Module) -> None:
        """Called with the split model before it trains: make room for what is to be remembered of it.

        It may be called again with the same model, and must change nothing then.
        """

    @abstractmethod
    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """Named scalars; the objective adds their sum times the weight."""

    def on_epoch(self, features: FeatureStream) -> dict[str, float]:
        """Refit before an epoch; returns facts for the event log."""
        return {}

    def inspect(self, trace: Trace, context: PenaltyContext) -> dict[str, Tensor]:
        """Values of held-out pictures, each ``(n, ...)``, that `ledger` draws its facts from; none by default."""
        return {}

    def ledger(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Facts for the event log from what `inspect` gave of all validation pictures, one batch after the other."""
        return {}

    def on_step(self, trace: Trace, context: PenaltyContext) -> None:
        """Train an inner adversary, with an optimiser of its own, before the outer step."""

    def on_stage_end(self, stage: str, model: nn.Module) -> None:
        """Remember what a later stage needs of the model as it stands at the end of this one."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A penalty, its name in logs, and its weight as a function of the state."""

    name: str
    penalty: Penalty
    weight: Callable[[TrainState], float]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a stage may lose of the reference's validation score, and what it is to buy with it.

    Args:
        points: percentage points, 0 <= points < 100.
        term: name of the penalty's term that is to be as low as the budget allows.

    Example:
        >>> Budget(0.5, "conditional_entropy").keeps(0.965, reference=0.97)
        True
    """

    points: float
    term: str

    def __post_init__(self) -> None:
        number = isinstance(self.points, (int, float)) and not isinstance(self.points, bool)
        if not (number and 0 <= self.points < 100):
            raise SpecError(
                f"expected a budget of 0 <= points < 100, got {self.points!r}: give percentage points of validation "
                "accuracy, for example 0.5"
            )

    def keeps(self, score: float, reference: float) -> bool:
        """Whether a score in [0, 1] lies at most `points` below the reference."""
        return score >= reference - self.points / 100 - _ROUNDING


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training: what trains, for how long, and what is done before.

    Args:
        name: in logs.
        share: of the recipe's epochs.
        parts: the attributes of the split model that train; the others are frozen, batch norm included.
        before: changes the model before the stage (prune, insert); the optimiser is built after it. Runs rehearse it
            on a copy of the untrained model.
        min_epochs: however short the recipe is.
        lr_scale: times the recipe's learning rate.
        lr_schedule: in place of the recipe's.
        budget: the stage starts from the weights selected in the stage before, whose validation score is the
            reference, and ends with weights that keep the budget.
        continues: the stage goes on with what the one before has learned: schedules that warm up have done so.
        settles: the stage starts from the weights selected in the stage before, and learns the task without penalties:
            for parts behind the wire, once what crosses it is decided.
        fresh: the stage begins with fresh weights, whatever the head and the tail have learned before.
    """

    name: str = "train"
    share: float = 1.0
    parts: tuple[str, ...] = ("head", "mechanism", "tail", "finish")
    before: Callable[[nn.Module], None] | None = None
    min_epochs: int = 1
    lr_scale: float = 1.0
    lr_schedule: Literal["multistep", "cosine", "constant"] | None = None
    budget: Budget | None = None
    settles: bool = False
    continues: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        positive(self.lr_scale, "lr_scale")
        if self.follows and self.before is not None:
            raise SpecError(
                f"expected the model unchanged before stage '{self.name}', got a hook: the selected weights that it "
                "starts from would not fit any more; change the model in a stage before it"
            )

    @property
    def follows(self) -> bool:
        """Whether it starts from the weights that were selected in the stage before, not from its last ones."""
        return self.budget is not None or self.settles


class Task(ABC):
    """What the model is for: a loss and a score, both per sample.

    Attributes:
        score_name: what the score is called in records.
        moves: whether targets are moved with the pictures by augmentation, as masks must be.
        needs_original: whether there is nothing to learn without the model that a run starts from.
    """

    score_name: ClassVar[str] = "score"
    moves: ClassVar[bool] = False
    needs_original: ClassVar[bool] = False

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n,)``, lower is better."""

    @abstractmethod
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """``(n,)`` in [0, 1], higher is better."""

    def target(self, x: Tensor, y: Tensor) -> Tensor:
        """What is to be learned of pictures ``x (n, c, h, w)`` with targets ``y (n, ...)`` of the table: y itself."""
        return y

    def groups(self, target: Tensor) -> Tensor:
        """``(n,)`` int64, the class of each target as penalties that work by class see it: one for all."""
        return torch.zeros(len(target), dtype=torch.int64, device=target.device)

    def group(self, x: Tensor, y: Tensor) -> Tensor:
        """`groups` of pictures with targets y of the table; where the groups are in y, no target need be worked out."""
        return self.groups(self.target(x, y))

    def count_groups(self, classes: int) -> int:
        """How many groups there are in data of so many classes."""
        return 1

    def chance(self, classes: int) -> float | None:
        """The score of a guess, None where it is not known."""
        return None

    def check_output(self, shape: tuple[int, ...], classes: int) -> None:
        """Raise `SpecError` unless outputs ``(n, ...)`` of this shape fit the task and data of so many classes."""
        if len(shape) < 2:
            raise SpecError(f"expected a model with an output (n, ...) per picture, got {shape}")

    def attach(self, original: nn.Module) -> Task:
        """Learn from the model that a run starts from, where the task needs one."""
        return self

    def to(self, device: torch.device | str) -> Task:
        """Move what the task holds."""
        return self

    @classmethod
    def facts(cls, source: Any, train: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters that the data decides, for those that the spec leaves open, and ``outputs``: of the model.

        Args:
            source: the data set.
            train: its table of training pictures.
            params: of the spec.

        Raises:
            SpecError: the data has other targets than this task learns.
        """
        return {}
