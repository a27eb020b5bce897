"""A run is a folder of plain files: a spec that was asked for, and the record of what came out.

```
spec.json           what was asked for (RunSpec)
env.json            versions, machine, digest of the source
events.jsonl        one line per epoch: losses, weights, validation
weights.safetensors the trained split model
architecture.json   changes to the built architecture (pruned channels), replayed before the weights are loaded
evaluation.json     accuracy, or the score of another task, on the test split, payload, shapes (Evaluation)
attacks.json        every attack on this run (AttackResult)
attackers/*.safetensors   fitted attackers
audit.json          the last audit (AuditRecord)
people.json         the last audit of identities (PeopleRecord)
samples/*.safetensors     pictures, reconstructions and the scores per picture
state/              checkpoint to resume from; removed when training is done
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field

from splitveil.errors import InputError, MissingDataError
from splitveil.files import write_text
from splitveil.migrations import Migrations
from splitveil.specs import (
    AugmentSpec,
    DataSpec,
    Frozen,
    ModelSpec,
    PlugInSpec,
    RunSpec,
    TrainingSpec,
    parse,
    read_json,
)

__all__ = [
    "PREDICTIONS",
    "PROJECTIONS",
    "AttackResult",
    "AugmentSpec",
    "DataSpec",
    "Evaluation",
    "FiledRecord",
    "MetricResult",
    "ModelSpec",
    "PlugInSpec",
    "RunRecord",
    "RunSpec",
    "ScoreResult",
    "TrainingSpec",
    "parse",
]


PREDICTIONS = "samples/test.safetensors"
"""The task's score of every test picture: ``accuracy (n,)`` where it classifies, ``score (n,)`` for other tasks."""

PROJECTIONS = "samples/features.safetensors"
"""Features and releases of some test pictures on two principal axes, see `splitveil.experiments.projections`."""


class FiledRecord(Frozen):
    """A record that lies in a folder as one file of JSON.

    Attributes:
        file: its name.
        what: what it is, in words.
        command: that writes it.
    """

    file: ClassVar[str]
    what: ClassVar[str]
    command: ClassVar[str]

    def write(self, folder: Path) -> Path:
        """Write it into a folder, whole or not at all; an older one is replaced."""
        write_text(folder / self.file, self.model_dump_json(indent=2) + "\n")
        return folder / self.file

    @classmethod
    def read(cls, folder: Path) -> Self:
        """That of a folder.

        Raises:
            MissingDataError: there is none.
        """
        file = Path(folder) / cls.file
        if not file.is_file():
            raise MissingDataError(f"expected {cls.what} at '{file}', got none: run  splitveil {cls.command}  first")
        return parse(cls, read_json(file), str(file))


class MetricResult(Frozen):
    """A metric over the test pictures; PSNR of a perfect copy is capped by the metric, so all values are finite."""

    unit: str
    safer: Literal["higher", "lower"]
    mean: float
    low: float
    high: float
    level: float
    worst: float
    worst_index: int
    n: int


class ScoreResult(Frozen):
    """The score of a task by its name, ``accuracy`` where it classifies: higher is better, in [0, 1]."""

    name: str
    result: MetricResult


def _one_score(old: dict[str, Any]) -> dict[str, Any]:
    """Accuracy had a place of its own, beside the score of other tasks."""
    known = {key: value for key, value in old.items() if value is not None}
    if "score" not in known and "accuracy" in known:
        known["score"] = {"name": "accuracy", "result": known.pop("accuracy")}
    return known


class Evaluation(Frozen):
    """What the trained model does on the test split."""

    migrations: ClassVar[Migrations] = {1: _one_score}

    format: Literal[2] = 2
    score: ScoreResult
    payload_bytes: int
    edge_parameters: int
    cloud_parameters: int
    edge_multiply_adds: int | None = None
    input_shape: tuple[int, ...]
    feature: dict[str, Any]
    release: dict[str, Any]
    noise: list[dict[str, Any]]
    class_names: list[str]
    splits: dict[str, int]
    elapsed_s: float

    @property
    def accuracy(self) -> MetricResult | None:
        """The score where the task is to classify."""
        return self.score.result if self.score.name == "accuracy" else None


class AttackResult(Frozen):
    """One attack on a run.

    `beyond_pixels` holds what judges said of the pictures, such as whether a classifier still recognises them;
    `controls` the same metrics as `metrics`, for attackers that ignore the release or use it linearly.
    """

    key: str
    attack: PlugInSpec
    threat: dict[str, Any]
    seed: int
    metrics: dict[str, MetricResult]
    beyond_pixels: dict[str, MetricResult] = Field(default_factory=dict)
    controls: dict[str, dict[str, MetricResult]]
    beats_controls: bool
    converged: bool | None
    facts: dict[str, Any]
    samples: str
    elapsed_s: float

    @property
    def better_controls(self) -> list[str]:
        """The controls that do better, beyond the intervals of both."""
        return [name for name, item in self.controls.items() if item["mse"].high < self.metrics["mse"].low]


class AttackFile(Frozen):
    """``attacks.json``."""

    format: Literal[1] = 1
    attacks: list[AttackResult]


def _what_is_at(path: Path) -> str:
    if path.is_dir():
        return "no spec.json in it"
    return "a file" if path.exists() else "no such folder"


class RunRecord:
    """Reads and writes the files of one run.

    Args:
        path: the run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: Path) -> RunRecord:
        """A run that is there.

        Raises:
            MissingDataError: the folder, or its spec.json, is not there.
        """
        path = Path(path)
        if not (path / "spec.json").is_file():
            raise MissingDataError(
                f"expected the folder of a run at '{path}', got {_what_is_at(path)}: "
                f"train one with  splitveil train … --out {path}"
            )
        return cls(path)

    @classmethod
    def find(cls, path: Path) -> list[RunRecord]:
        """The run at this path, or the runs in the folders below it, by name."""
        path = Path(path)
        if (path / "spec.json").is_file():
            return [cls(path)]
        found = [cls(item.parent) for item in sorted(path.glob("*/spec.json"))] if path.is_dir() else []
        if not found:
            raise MissingDataError(
                f"expected a run, or a folder of runs, at '{path}', got {_what_is_at(path)}: "
                f"train one with  splitveil train … --out {path}"
            )
        return found

    @classmethod
    def gather(cls, paths: Iterable[Path]) -> list[RunRecord]:
        """The runs at or below all these paths, each once, in order."""
        found = {record.path.resolve(): record for path in paths for record in cls.find(path)}
        return list(found.values())

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def spec(self) -> RunSpec:
        """What was asked for."""
        return parse(RunSpec, self._read("spec.json"), str(self.path / "spec.json"))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and the digest of the source."""
        data = self._read("env.json")
        if not isinstance(data, dict):
            raise InputError(f"expected names and values in '{self.path / 'env.json'}', got a {type(data).__name__}")
        return data

    @property
    def evaluation(self) -> Evaluation | None:
        """Scores on the test split, or None before training is done."""
        if not (self.path / "evaluation.json").is_file():
            return None
        return parse(Evaluation, self._read("evaluation.json"), str(self.path / "evaluation.json"))

    @property
    def attacks(self) -> list[AttackResult]:
        """All attacks on this run."""
        if not (self.path / "attacks.json").is_file():
            return []
        return parse(AttackFile, self._read("attacks.json"), str(self.path / "attacks.json")).attacks

    def attack(self, key: str) -> AttackResult | None:
        """The attack of this key, None where there is none."""
        return next((attack for attack in self.attacks if attack.key == key), None)

    @property
    def finished(self) -> bool:
        """Whether training is done and evaluated."""
        return (self.path / "evaluation.json").is_file() and (self.path / "weights.safetensors").is_file()

    def events(self) -> Iterator[dict[str, Any]]:
        """The event log, one per epoch; a last line that a kill has cut off is passed over.

        Raises:
            InputError: another line is damaged.
        """
        file = self.path / "events.jsonl"
        lines = file.read_text().split("\n") if file.is_file() else []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"expected JSON in line {number} of '{file}', got {error}: train again") from error

    def write(self, name: str, data: Any) -> None:
        """Write JSON whole or not at all."""
        plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
        write_text(self.path / name, json.dumps(plain, indent=2, allow_nan=False) + "\n")

    def add_attack(self, result: AttackResult) -> None:
        """Add the result of an attack, in place of one with the same key."""
        kept = [item for item in self.attacks if item.key != result.key]
        self.write("attacks.json", AttackFile(attacks=[*kept, result]))

    def _read(self, name: str) -> Any:
        return read_json(self.path / name)
