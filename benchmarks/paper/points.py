"""One point of a row: a kind of CEM, a noise level, a seed; trained and attacked, resumable between its steps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.numpy import load_file

from benchmarks.harness import accuracy_of, pack, plug_in
from benchmarks.paper.protocol import attack_honestly, attack_like_the_paper
from benchmarks.paper.scales import DISTILLED, ROWS, SETTLED, Scale, defense_of
from splitveil.cli.common import progress_bar
from splitveil.defenses import Defense, load_defense
from splitveil.errors import SpecError
from splitveil.experiments.api import make_spec
from splitveil.experiments.environment import source_digest
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.files import write_text
from splitveil.records import PREDICTIONS, RunRecord
from splitveil.training.observer import Observer

__all__ = ["Place", "Point", "points_of", "run_point", "seal_of", "train_teacher"]


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where points are computed.

    Args:
        data: the folder of pictures.
        out: of runs, and of points that are done.
        until: time of the monotonic clock at which to stop, None for never.
        watch: from the name of a run to who watches its training.
    """

    data: str
    out: Path
    until: float | None = None
    watch: Callable[[str], Observer] = progress_bar


def run_point(point: Point, scale: Scale, place: Place) -> dict[str, Any] | None:
    """Train and attack one point; None where the time was up before its end."""
    out, until = place.out, place.until
    file, seal = out / "points" / f"{point.name}.json", seal_of(point, scale)
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        if found.get("settings") == seal:
            return found
        raise SpecError(f"expected a point of these settings in '{file}', got one of others: choose another --out")
    record = _train(point, scale, place)
    if record is None or is_over(until):
        return None
    evaluation = record.evaluation
    assert evaluation is not None
    loaded, steps = load_data_spec(record.spec.data), _Steps(out / "points" / point.name, until)
    try:
        paper = attack_like_the_paper(record, loaded, scale, steps)
        honest = steps("honest", lambda: attack_honestly(record, loaded, scale))
    except _TimeIsUpError:
        return None
    errors = load_file(record.path / honest.pop("samples"))["mse"]
    found = {
        "settings": seal,
        "source_digest": source_digest(),
        "data_digest": record.spec.data.digest,
        "kind": point.kind,
        "noise_std": point.noise_std,
        "seed": point.seed,
        "accuracy": accuracy_of(record).model_dump(),
        "edge_parameters": evaluation.edge_parameters,
        "payload_bytes": evaluation.payload_bytes,
        "paper": paper,
        "honest": honest,
        "correct": pack(load_file(record.path / PREDICTIONS)["accuracy"], 1),
        "error": pack(errors),
        "seconds": {"training": evaluation.elapsed_s, **steps.seconds},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(found, allow_nan=False) + "\n")
    return found


class _Steps:
    """Results of what takes minutes, each in a file of its own, so that a process that is stopped costs one of them."""

    def __init__(self, folder: Path, until: float | None) -> None:
        self._folder, self._until, self.seconds = folder, until, dict[str, float]()

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        file = self._folder / f"{name}.json"
        if not file.is_file():
            if is_over(self._until):
                raise _TimeIsUpError
            begun, found = time.monotonic(), step()
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({"found": found, "seconds": time.monotonic() - begun}, allow_nan=False))
        held = json.loads(file.read_text())
        self.seconds[name] = held["seconds"]
        return held["found"]


def seal_of(point: Point, scale: Scale) -> str:
    """A digest of all that decides this point, but for the code and the pictures."""
    row = ROWS[point.row]
    decides = {
        "defense": plug_in(defense_of(row, point.kind, point.noise_std, scale)).model_dump(),
        "cut": row.cut,
        "seed": point.seed,
        "recipe": scale.recipe,
        "training": dict(scale.training),
        "limit": scale.limit,
        "draw": scale.draw,
        "taught": {"settle": scale.settle, "task": DISTILLED.model_dump()} if point.kind in SETTLED else None,
        "decoder": dict(scale.decoder),
        "adversarial": scale.adversarial,
        "honest": [attack.model_dump() for attack in scale.honest],
    }
    return sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def train_teacher(seed: int, scale: Scale, place: Place) -> RunRecord | None:
    """The undefended model that the settled kinds of a seed start from and learn from; None where the time was up."""
    return _run(f"none-{seed}", load_defense("none", {}), seed, scale, place)


def _train(point: Point, scale: Scale, place: Place) -> RunRecord | None:
    row = ROWS[point.row]
    defense = defense_of(row, point.kind, point.noise_std, scale)
    more: dict[str, Any] = {} if row.cut is None else {"model_kwargs": {"cut": row.cut}}
    if point.kind in SETTLED:
        teacher = train_teacher(point.seed, scale, place)
        if teacher is None:
            return None
        more |= {"training": {"settle": scale.settle}, "task": DISTILLED, "weights": teacher.path}
    return _run(point.name, defense, point.seed, scale, place, **more)


def _run(
    name: str,
    defense: Defense,
    seed: int,
    scale: Scale,
    place: Place,
    training: Mapping[str, Any] = MappingProxyType({}),
    **more: Any,
) -> RunRecord | None:
    recipe = load_recipe(scale.recipe)
    spec = make_spec(
        place.data,
        defense=plug_in(defense),
        recipe=replace(recipe, limit=scale.limit or recipe.limit),
        seed=seed,
        training={**scale.training, **training},
        **more,
    )
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"seed": scale.draw})})
    try:
        return train_run(spec, place.out / name, observer=_Timed(place.watch(name), place.until))
    except _TimeIsUpError:
        return None
