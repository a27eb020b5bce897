"""What plug-ins and loops agree on: value types and abstract bases.

Shape words: ``n`` batch, ``c h w`` picture, ``q`` feature dimension, ``*z`` feature, ``*r`` release, ``k`` classes,
``m`` observations, ``d`` = c*h*w. Pictures are float32 in [0, 1]; normalisation lives inside the head.

```
x --[ head ]-- z --[ mechanism ]-- r == wire ==[ tail ]-- reply ==[ finish ]-- output
edge: x, z, finish          public: r, reply          (`splitveil.split.SplitModel` is the one door)
```
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from splitveil.errors import ContractError, InputError, SpecError, ThreatModelError
from splitveil.threats import Grant, ThreatModel

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = [
    "Attack",
    "Codec",
    "FeatureBatch",
    "FeatureSpec",
    "FeatureStream",
    "GaussianChannel",
    "Inverter",
    "Mechanism",
    "Metric",
    "NoiseSource",
    "NoiseSpec",
    "Penalty",
    "PenaltyContext",
    "Stage",
    "Subject",
    "Summary",
    "Task",
    "Terms",
    "Trace",
    "TrainState",
    "View",
    "Weighted",
]

# ---------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What crosses between two parts: the shape of one sample and how to read it.

    Args:
        shape: of one sample, without the batch.
        kind: ``map`` (c, h, w), ``tokens`` (t, c) or ``vector`` (q,).
        channel_axis: axis of `shape` that holds channels.
        grid: rows and columns of positions, for maps and for tokens that lie on a grid.
        prefix_tokens: tokens before the grid (class token, registers).
        range: the values that are promised, or None.

    Example:
        >>> FeatureSpec.of((8, 4, 4), range=(0.0, 1.0)).numel
        128
    """

    shape: tuple[int, ...]
    kind: Literal["map", "tokens", "vector"]
    channel_axis: int
    grid: tuple[int, int] | None = None
    prefix_tokens: int = 0
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        axes = {"map": 3, "tokens": 2, "vector": 1}[self.kind]
        if len(self.shape) != axes or any(size < 1 for size in self.shape):
            raise ContractError(f"expected {axes} positive sizes for kind '{self.kind}', got shape {self.shape}")

    @classmethod
    def of(
        cls, shape: Iterable[int], *, prefix_tokens: int = 0, range: tuple[float, float] | None = None
    ) -> FeatureSpec:
        """The usual reading of a shape: three sizes are a map, two are tokens, one is a vector."""
        sizes = tuple(int(size) for size in shape)
        if len(sizes) == 3:
            return cls(sizes, "map", 0, (sizes[1], sizes[2]), 0, range)
        if len(sizes) == 2:
            side = math.isqrt(max(sizes[0] - prefix_tokens, 0))
            grid = (side, side) if side * side == sizes[0] - prefix_tokens and side else None
            return cls(sizes, "tokens", 1, grid, prefix_tokens, range)
        if len(sizes) == 1:
            return cls(sizes, "vector", 0, None, 0, range)
        raise ContractError(f"expected a feature of 1, 2 or 3 axes beside the batch, got shape {sizes}")

    @property
    def numel(self) -> int:
        """q, the number of values of one sample."""
        return math.prod(self.shape)

    def check(self, value: Tensor, name: str) -> None:
        """Raise `InputError` unless the tensor is ``(n, *shape)``."""
        if tuple(value.shape[1:]) != self.shape or value.ndim != len(self.shape) + 1:
            got = tuple(value.shape)
            cure = f": the batch axis is missing, pass {name}[None]" if got == self.shape else ""
            raise InputError(f"expected {name} of shape (n, {', '.join(map(str, self.shape))}), got {got}{cure}")

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """The inverse of `to_json`."""
        values = dict(data)
        for key in ("shape", "grid", "range"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class NoiseSpec:
    """One noise tensor that a mechanism needs, per sample. Uniform means the open interval (0, 1)."""

    name: str
    shape: tuple[int, ...]
    law: Literal["standard_normal", "uniform"]


class NoiseSource(Protocol):
    """Where noise comes from; row i never depends on n."""

    def draw(self, spec: NoiseSpec, n: int) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class GaussianChannel:
    """The Gaussian stage of a mechanism: ``N(mean(z), diag(std(z)^2))``.

    What follows that stage is post-processing, so information about this stage bounds information about r.

    Args:
        mean: ``(n, *s)``, with gradient to z.
        std: broadcastable to `mean`, feature units, positive.
    """

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True)
class Trace:
    """One pass through the split model, shared by training, penalties and diagnostics."""

    x: Tensor
    z: Tensor
    r: Tensor
    reply: Tensor
    output: Tensor
    channel: GaussianChannel | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where training stands; penalties' weights are functions of it.

    Args:
        epoch: from 0, within the stage.
        step: from 0, within the stage.
        progress: share of the stage that has passed, in [0, 1).
        lr: learning rate of this step.
        last_validation: score of the last validation, or None before the first.
    """

    epoch: int
    step: int
    progress: float
    lr: float
    last_validation: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean with its bootstrap interval, and the least safe sample."""

    mean: float
    low: float
    high: float
    level: float
    worst: float
    worst_index: int
    n: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record."""
        return asdict(self)


# ---------------------------------------------------------------------------------------------- the wire


class Mechanism(nn.Module, ABC):
    """What happens at the wire, always; it ships with the edge.

    `forward` is pure and traceable and row i of the result never reads row j of z. All scales live here, the noise
    comes in as an argument. Only `SplitModel` calls a mechanism.
    """

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> Mechanism:
        """Build for features of this spec; override where shapes or initial values are needed."""
        return cls(**params)

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """The noise that `forward` needs, in its order; names become ONNX inputs."""
        return ()

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of r."""
        return z

    @abstractmethod
    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` and noises of ``(n, *shape)`` to ``(n, *r)``."""

    def gaussian_channel(self, z: Tensor) -> GaussianChannel | None:
        """The Gaussian stage of this mechanism at z, or None where it has none."""
        return None

    def combine(self, r: Tensor) -> Tensor:
        """What m releases of one input amount to: ``(n, m, *r)`` to ``(n, *r)``; the mean unless overridden."""
        return r.mean(dim=1)


class Codec(ABC):
    """Bytes on the wire: framing and quantisation of r, inside `SplitModel.release`."""

    @abstractmethod
    def encode(self, r: Tensor) -> bytes:
        """``(n, *r)`` to bytes."""

    @abstractmethod
    def decode(self, data: bytes, spec: FeatureSpec) -> Tensor:
        """Bytes to ``(n, *r)``, float32; hostile bytes raise `InputError`."""

    @abstractmethod
    def roundtrip(self, r: Tensor) -> Tensor:
        """What the receiver gets, as a tensor; straight-through in the backward pass."""


# ---------------------------------------------------------------------------------------------- training

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


# ---------------------------------------------------------------------------------------------- attack


@runtime_checkable
class Subject(Protocol):
    """Anything that can be audited: our run, a callable, an ONNX file."""

    input_shape: tuple[int, ...]
    release_spec: FeatureSpec
    offers: frozenset[Grant]

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor: ...

    def combine(self, r: Tensor) -> Tensor: ...


class View(Protocol):
    """What an attack sees of a subject, see `splitveil.attacks.view.AttackerView`."""

    threat: ThreatModel
    input_shape: tuple[int, ...]
    release_spec: FeatureSpec

    def release(self, x: Tensor, rng: Rng) -> Tensor: ...

    def simulate(self, x: Tensor, noises: tuple[Tensor, ...]) -> Tensor: ...

    @property
    def auxiliary(self) -> Any: ...


class Inverter(nn.Module, ABC):
    """A fitted attack: releases in, pictures out."""

    facts: dict[str, Any]

    def invert(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)`` in [0, 1], in evaluation mode, without gradient."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            pictures = self.reconstruct(r)
        self.train(was_training)
        return pictures.clamp(0.0, 1.0)

    @abstractmethod
    def reconstruct(self, r: Tensor) -> Tensor:
        """The reconstruction, with gradient; may leave [0, 1]."""


class Attack(ABC):
    """A frozen configuration of an attack: its `repr` is its record.

    `fit` is final: it checks what the threat model grants, then calls `_fit`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Grant]]

    def fit(self, view: View, rng: Rng) -> Inverter:
        """Learn to invert from what the view grants.

        Raises:
            ThreatModelError: the attack needs more than the threat model grants.
        """
        missing = sorted(self.needs - view.threat.grants)
        if missing:
            raise ThreatModelError(
                f"attack '{self.name}' needs {', '.join(missing)}, which the threat model does not grant "
                f"(it grants {', '.join(sorted(view.threat.grants)) or 'nothing'}): choose another attack or threat"
            )
        return self._fit(view, rng)

    @abstractmethod
    def _fit(self, view: View, rng: Rng) -> Inverter: ...


class Metric(ABC):
    """A score per sample, never reduced here."""

    name: ClassVar[str]
    unit: ClassVar[str]
    safer: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Pictures ``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``."""


def positive(value: float, name: str) -> float:
    """The value as a float, or `SpecError` unless it is positive and finite."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise SpecError(f"expected {name} > 0, got {value!r}")
    return float(value)
