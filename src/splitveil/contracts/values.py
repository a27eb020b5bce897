"""Values: what crosses between parts, and one pass through the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from splitveil.errors import ContractError, InputError, SpecError

__all__ = [
    "FeatureSpec",
    "GaussianChannel",
    "NoiseSource",
    "NoiseSpec",
    "Summary",
    "Trace",
    "TrainState",
    "check_finite",
    "interval",
    "positive",
]


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
        axes = {"map": 3, "tokens": 2, "vector": 1}.get(self.kind)
        sizes = (*self.shape, *(self.grid or ()))
        if axes is None or len(self.shape) != axes or not all(type(size) is int and size >= 1 for size in sizes):
            raise ContractError(
                f"expected a map of 3, tokens of 2 or a vector of 1 positive sizes, got kind '{self.kind}' with shape "
                f"{self.shape} and grid {self.grid}"
            )
        if type(self.channel_axis) is not int or not 0 <= self.channel_axis < axes:
            raise ContractError(f"expected a channel axis of shape {self.shape}, got {self.channel_axis!r}")
        positions = math.prod(self.shape) // self.shape[self.channel_axis]
        if type(self.prefix_tokens) is not int or not 0 <= self.prefix_tokens < (positions if axes == 2 else 1):
            raise ContractError(
                f"expected prefix tokens before others, got {self.prefix_tokens!r} in '{self.kind}' of {self.shape}"
            )
        if self.grid is not None and math.prod(self.grid) != positions - self.prefix_tokens:
            raise ContractError(f"expected a grid of {positions - self.prefix_tokens} positions, got {self.grid}")

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
        box: the interval that every value of `mean` is clipped to, where the mechanism clips; up to a constant of
            each value that is the same for all pictures, since that tells nothing of any.
        ball: the l2 norm that `mean` is clipped to, up to such constants, where the mechanism clips that.
    """

    mean: Tensor
    std: Tensor
    box: tuple[float, float] | None = None
    ball: float | None = None


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
        lr: learning rate of this step, None where a loop does not say it.
        last_validation: score of the last validation, or None before the first.
        validations: score of each finished epoch of this stage, in order.
        reference: score that a stage with a budget is held against, None in other stages.
        stage: its name.
        continues: whether the stage goes on with what the one before has learned.
    """

    epoch: int
    step: int
    progress: float
    lr: float | None
    last_validation: float | None = None
    validations: tuple[float, ...] = ()
    reference: float | None = None
    stage: str = "train"
    continues: bool = False


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


def positive(value: float, name: str) -> float:
    """The value as a float, or `SpecError` unless it is positive and finite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise SpecError(f"expected {name} > 0, got {value!r}")
    return float(value)


def interval(low: float, high: float, what: str) -> tuple[float, float]:
    """Both as floats, or `SpecError` unless they are finite and in order.

    Args:
        low: lower edge.
        high: upper edge.
        what: they are the edges of, for the message.
    """
    numbers = all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in (low, high))
    if not (numbers and math.isfinite(low) and math.isfinite(high) and low < high):
        raise SpecError(f"expected finite low < high for {what}, got low={low} and high={high}: pass such as 0 and 1")
    return float(low), float(high)


def check_finite(value: Tensor, what: str, cure: str) -> None:
    """Raise `InputError` where a tensor holds NaN or infinity.

    Args:
        value: any shape.
        what: it is, for the message.
        cure: what to do about it.
    """
    broken = int((~value.isfinite()).sum())
    if broken:
        raise InputError(f"expected finite numbers in {what}, got {broken} of {value.numel()} not finite: {cure}")
