"""One point of a row: a kind of CEM, a noise level, a seed; trained and attacked, resumable between its steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from benchmarks.harness import pack, plug_in
from benchmarks.paper.protocol import attack_honestly, attack_like_the_paper
from benchmarks.paper.scales import DISTILLED, ROWS, SETTLED, Scale, defense_of
from splitveil.cli.common import progress_bar
from splitveil.defenses import Defense, load_defense
from splitveil.experiments.api import make_spec
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.files import write_text
from splitveil.records import PREDICTIONS, RunRecord
from splitveil.training.observer import Observer

__all__ = ["Point", "points_of", "run_point"]


@dataclass(frozen=True, slots=True)
class Point:
    """Which of a row's runs."""

    row: str
    kind: str
    noise_std: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}-{self.kind}-{self.noise_std:g}-{self.seed}"


def points_of(row: str, scale: Scale) -> Iterator[Point]:
    """All of a row, the first seed first."""
    for seed in range(scale.seeds):
        for noise_std in scale.noise_of(ROWS[row]):
            for kind in ROWS[row].kinds:
                yield Point(row, kind, noise_std, seed)


class _Timed(Observer):
    """Another observer, and an end."""

    def __init__(self, inner: Observer, until: float | None) -> None:
        self._inner, self._until = inner, until

    def start(self, what: str, total: int, done: int) -> None:
        self._inner.start(what, total, done)

    def advance(self, text: str) -> None:
        self._inner.advance(text)
        if is_over(self._until):
            raise _TimeIsUpError

    def event(self, event: dict[str, Any]) -> None:
        self._inner.event(event)

    def stop(self) -> None:
        self._inner.stop()


class _TimeIsUpError(Exception):
    """The run has been saved not long ago, and goes on from there."""


def is_over(until: float | None) -> bool:
    """Whether the time is up."""
    return until is not None and time.monotonic() >= until


def run_point(point: Point, scale: Scale, data: str, out: Path, until: float | None) -> dict[str, Any] | None:
    """Train and attack one point; None where the time was up before its end."""
    file = out / "points" / f"{point.name}.json"
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    record = _train(point, scale, data, out, until)
    if record is None or is_over(until):
        return None
    begun, evaluation = time.monotonic(), record.evaluation
    assert evaluation is not None
    assert evaluation.accuracy is not None
    loaded = load_data_spec(record.spec.data)
    paper = attack_like_the_paper(record, loaded, scale)
    honest = attack_honestly(record, loaded, scale)
    errors = load_file(record.path / honest.pop("samples"))["mse"]
    found = {
        "kind": point.kind,
        "noise_std": point.noise_std,
        "seed": point.seed,
        "accuracy": evaluation.accuracy.model_dump(),
        "edge_parameters": evaluation.edge_parameters,
        "payload_bytes": evaluation.payload_bytes,
        "paper": paper,
        "honest": honest,
        "correct": pack(load_file(record.path / PREDICTIONS)["accuracy"], 1),
        "error": pack(errors),
        "seconds": evaluation.elapsed_s + time.monotonic() - begun,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(found, allow_nan=False) + "\n")
    return found


def _train(point: Point, scale: Scale, data: str, out: Path, until: float | None) -> RunRecord | None:
    recipe, row = load_recipe(scale.recipe), ROWS[point.row]
    cut = {} if row.cut is None else {"model_kwargs": {"cut": row.cut}}

    def trained(name: str, defense: Defense, training: dict[str, Any], **more: Any) -> RunRecord:
        spec = make_spec(
            data,
            defense=plug_in(defense),
            recipe=replace(recipe, limit=scale.limit or recipe.limit),
            seed=point.seed,
            training={**scale.training, **training},
            **more,
        )
        return train_run(spec, out / name, observer=_Timed(progress_bar(name), until))

    defense = defense_of(row, point.kind, point.noise_std, scale)
    try:
        if point.kind not in SETTLED:
            return trained(point.name, defense, {}, **cut)
        plain = trained(f"none-{point.seed}", load_defense("none", {}), {}, **cut)
        return trained(point.name, defense, {"settle": scale.settle}, task=DISTILLED, weights=plain.path)
    except _TimeIsUpError:
        return None
