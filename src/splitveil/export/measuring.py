"""What exported graphs do, against the model they came from: parity on equal noise, and the task's score end to end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.contracts import Task
from splitveil.data.loader import Pictures
from splitveil.metrics.summary import summarize
from splitveil.modes import evaluating
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.observer import Observer
from splitveil_edge.graphs import CloudGraph, EdgeGraphs
from splitveil_edge.passport import CodecSpec, Passport
from splitveil_edge.wire import wire_codec

__all__ = ["Measured", "Parity", "edge_limit", "measure", "measure_edge", "said_of_predictions"]

TOLERANCE = 1e-4
"""Of fp32 graphs, relative to the largest value where that is above 1."""

MOST_BEYOND = 0.01
"""Share of pictures whose release may differ by more: a mask or a level flips where two values lie within rounding."""

_BATCH = 256
_OF_CLASSES = ("accuracy", "agreement", "mean-iou")  # scores of outputs (n, classes, ...)
_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest absolute difference of one part from the model's, on equal inputs.

    Args:
        largest: over all pictures and values.
        scale: the largest absolute value of the model's.
        beyond: share of pictures with a difference beyond the tolerance of fp32.
    """

    largest: float
    scale: float
    beyond: float

    @property
    def limit(self) -> float:
        """The tolerance of fp32 at this scale."""
        return TOLERANCE * max(1.0, self.scale)


@dataclass(frozen=True, slots=True)
class Measured:
    """What `measure` found.

    Args:
        edge: of releases.
        cloud: of replies to equal releases.
        finish: of outputs for equal replies, None without a finish.
        same_predictions: share of predictions that are the same, each way from end to end; None where the task predicts
            values and no classes.
        score: of the task, of the graphs, ``{name, mean, low, high, level, n}``.
        score_torch: of the model on the same pictures and noise.
        pictures: how many.
    """

    edge: Parity
    cloud: Parity
    finish: Parity | None
    same_predictions: float | None
    score: dict[str, Any]
    score_torch: float
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in a passport."""
        parts = {"edge": self.edge, "cloud": self.cloud, "finish": self.finish}
        return {
            **{name: None if part is None else part.largest for name, part in parts.items()},
            "beyond_tolerance": {name: part.beyond for name, part in parts.items() if part is not None},
            "same_predictions": self.same_predictions,
            "score": self.score,
            "score_torch": self.score_torch,
            "pictures": self.pictures,
        }


def measure(
    model: SplitModel,
    folder: Path,
    passport: Passport,
    pictures: Pictures,
    rng: Rng,
    task: Task,
    observer: Observer | None = None,
) -> Measured:
    """Run pictures through the graphs of a bundle and through the model, on equal noise.

    Args:
        model: what was exported.
        folder: of the bundle.
        passport: its passport, or a draft of it.
        pictures: with their targets.
        rng: key of the noise.
        task: that scores outputs.
        observer: watches.
    """
    watcher = observer or Observer()
    edge, cloud = EdgeGraphs(folder, passport), CloudGraph(folder, passport)
    differences = [_Differences(_step(passport.codec)), _Differences(0.0), _Differences(0.0)]
    scores, plain, same, start = list[Tensor](), list[Tensor](), list[Tensor](), 0
    watcher.start("measure", -(-len(pictures) // _BATCH), 0)
    try:
        for x, y in pictures.batches(_BATCH):
            truth = _Truth.of(model, x, SeededNoise(rng, start))
            r = edge.release(_array(x), truth.noises)
            differences[0].add(r, truth.r)
            differences[1].add(cloud.reply(truth.r), truth.reply)
            differences[2].add(edge.finish(truth.reply), truth.output)
            output = torch.from_numpy(edge.finish(cloud.reply(_sent(passport, r))))
            target, expected = task.target(x, y), torch.from_numpy(truth.output)
            scores.append(task.score(output, target).float())
            plain.append(task.score(expected, target).float())
            if task.score_name in _OF_CLASSES:
                same.append((output.argmax(1) == expected.argmax(1)).flatten())
            start += len(x)
            watcher.advance("pictures")
    finally:
        watcher.stop()
    summary = summarize(torch.cat(scores), rng=rng.child("bootstrap"), safer="higher")
    facts = {key: value for key, value in asdict(summary).items() if key in ("mean", "low", "high", "level", "n")}
    finishes = not isinstance(model.finish, torch.nn.Identity)
    return Measured(
        edge=differences[0].parity,
        cloud=differences[1].parity,
        finish=differences[2].parity if finishes else None,
        same_predictions=float(torch.cat(same).float().mean()) if same else None,
        score={"name": task.score_name, **facts},
        score_torch=float(torch.cat(plain).mean()),
        pictures=start,
    )


def measure_edge(model: SplitModel, folder: Path, passport: Passport, pictures: Pictures, rng: Rng) -> Parity:
    """The edge's part of `measure` alone; the cloud's graph need not be there."""
    edge, differences, start = EdgeGraphs(folder, passport), _Differences(_step(passport.codec)), 0
    for x, _ in pictures.batches(_BATCH):
        truth = _Truth.of(model, x, SeededNoise(rng, start))
        differences.add(edge.release(_array(x), truth.noises), truth.r)
        start += len(x)
    return differences.parity


def said_of_predictions(measured: Measured) -> str:
    """How many predictions are the same, in words behind others; nothing where there are none."""
    share = measured.same_predictions
    return "" if share is None else f", {share:.1%} of predictions the same"


def edge_limit(passport: Passport, parity: Parity) -> float:
    """The tolerance of fp32 releases: one level more where they are rounded to levels."""
    return parity.limit + _step(passport.codec)


def _step(codec: CodecSpec) -> float:
    """The distance of two levels; a value at the border of two may fall to either side."""
    return 0.0 if codec.name == "float32" else 1.001 * (codec.high - codec.low) / (2**codec.bits - 1)


def _sent(passport: Passport, r: _Array) -> _Array:
    wire = wire_codec(passport)
    return wire.decode(wire.encode(r))


@dataclass(frozen=True, slots=True)
class _Truth:
    """One batch through the model, with the noise that it was given."""

    noises: dict[str, _Array]
    r: _Array
    reply: _Array
    output: _Array

    @classmethod
    def of(cls, model: SplitModel, x: Tensor, source: SeededNoise) -> _Truth:
        with evaluating(model), torch.no_grad():
            noises = model.draw(source, len(x), x.device)
            r = model.simulate(x, noises)
            reply = model.reply(r)
            output = model.finish(reply)
        named = {spec.name: _array(noise) for spec, noise in zip(model.noise_specs, noises, strict=True)}
        return cls(named, _array(r), _array(reply), _array(output))


class _Differences:
    """Collects differences batch by batch.

    Args:
        allowance: beside the tolerance.
    """

    def __init__(self, allowance: float) -> None:
        self._allowance, self._scale = allowance, 0.0
        self._rows: list[_Array] = []

    def add(self, got: _Array, expected: _Array) -> None:
        rows = np.abs(got - expected).reshape(len(expected), -1).max(1)
        self._rows.append(np.where(np.isfinite(rows), rows, np.inf))
        self._scale = max(self._scale, float(np.abs(expected).max()))

    @property
    def parity(self) -> Parity:
        rows = np.concatenate(self._rows)
        limit = Parity(0.0, self._scale, 0.0).limit + self._allowance
        return Parity(float(rows.max()), self._scale, float((rows > limit).mean()))


def _array(value: Tensor) -> _Array:
    found: _Array = np.ascontiguousarray(value.detach().cpu().numpy(), dtype=np.float32)
    return found
