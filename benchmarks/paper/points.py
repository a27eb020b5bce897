"""One point of a row: a kind of CEM, a noise level, a seed; trained and attacked, resumable between its steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.numpy import load_file

from benchmarks.harness import accuracy_of, pack, plug_in
from benchmarks.paper.protocol import attack_honestly, attack_like_the_paper
from benchmarks.paper.scales import DISTILLED, ROWS, SETTLED, Scale, defense_of
from benchmarks.paper.steps import Steps, Timed, TimeIsUpError, is_over
from splitveil.cli.common import progress_bar
from splitveil.defenses import Defense, load_defense
from splitveil.errors import SpecError
from splitveil.experiments.api import make_spec
from splitveil.experiments.environment import describe_environment, pick_device, source_digest
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import LoadedData, load_data_spec, train_run
from splitveil.files import write_text
from splitveil.records import PREDICTIONS, RunRecord
from splitveil.specs import DataSpec, RunSpec
from splitveil.training.observer import Observer

__all__ = ["Place", "Point", "pictures_of", "points_of", "run_point", "seal_of", "train_teacher"]


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
    for seed in range(scale.seeds_of(ROWS[row])):
        for noise_std in scale.noise_of(ROWS[row]):
            for kind in ROWS[row].kinds:
                yield Point(row, kind, noise_std, seed)


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
    """Train and attack one point; None where the time was up before its end.

    Raises:
        SpecError: the folder holds this point of other settings or pictures.
        TrainingError: it diverged, as it would again.
    """
    file, seal = place.out / "points" / f"{point.name}.json", seal_of(point, scale)
    if not file.is_file() and is_over(place.until):
        return None
    loaded = pictures_of(scale, place)
    if file.is_file():
        found: dict[str, Any] = json.loads(file.read_text())
        if (found.get("settings"), found.get("data_digest")) == (seal, loaded.splits.digest):
            return found
        raise SpecError(
            f"expected a point of these settings and pictures in '{file}', got one of others: choose another --out"
        )
    try:
        found = _computed(point, scale, place, loaded)
    except TimeIsUpError:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(found, allow_nan=False) + "\n")
    return found


def _computed(point: Point, scale: Scale, place: Place, loaded: LoadedData) -> dict[str, Any]:
    seal, seconds = seal_of(point, scale), dict[str, float]()
    record = _train(point, scale, place, seconds)
    evaluation = record.evaluation
    assert evaluation is not None
    steps = Steps(place.out / "points" / point.name, seal, place.until)
    paper = attack_like_the_paper(record, loaded, scale, steps)
    honest = steps("honest", lambda: attack_honestly(record, loaded, scale))
    errors = load_file(record.path / honest.pop("samples"))["mse"]
    return {
        "settings": seal,
        "source_digest": source_digest(),
        "data_digest": loaded.splits.digest,
        "environment": describe_environment(pick_device(None)),
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
        "seconds": {**seconds, "training": evaluation.elapsed_s, **steps.seconds},
    }


def pictures_of(scale: Scale, place: Place) -> LoadedData:
    """All points of a scale learn from, and are attacked on, the same pictures; decoded once in a process."""
    return _loaded(_spec(load_defense("none", {}), 0, scale, place).data)


@lru_cache(maxsize=1)
def _loaded(spec: DataSpec) -> LoadedData:
    return load_data_spec(spec)


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


def train_teacher(seed: int, scale: Scale, place: Place) -> RunRecord:
    """The undefended model that the settled kinds of a seed start from and learn from.

    Raises:
        TimeIsUpError: it is not trained yet.
    """
    return _run(f"none-{seed}", _spec(load_defense("none", {}), seed, scale, place), place)


def _train(point: Point, scale: Scale, place: Place, seconds: dict[str, float]) -> RunRecord:
    """The run of a point; the time of its teacher, which it shares, is noted apart."""
    row = ROWS[point.row]
    defense = defense_of(row, point.kind, point.noise_std, scale)
    more: dict[str, Any] = {} if row.cut is None else {"model_kwargs": {"cut": row.cut}}
    if point.kind in SETTLED:
        teacher = train_teacher(point.seed, scale, place)
        if teacher.evaluation is not None:
            seconds["teacher"] = teacher.evaluation.elapsed_s
        more |= {"training": {"settle": scale.settle}, "task": DISTILLED, "weights": teacher.path}
    return _run(point.name, _spec(defense, point.seed, scale, place, **more), place)


def _run(name: str, spec: RunSpec, place: Place) -> RunRecord:
    pictures = _loaded(spec.data)
    return train_run(spec, place.out / name, observer=Timed(place.watch(name), place.until), data=pictures)


def _spec(
    defense: Defense,
    seed: int,
    scale: Scale,
    place: Place,
    training: Mapping[str, Any] = MappingProxyType({}),
    **more: Any,
) -> RunSpec:
    recipe = load_recipe(scale.recipe)
    spec = make_spec(
        place.data,
        defense=plug_in(defense),
        recipe=replace(recipe, limit=scale.limit or recipe.limit),
        seed=seed,
        training={**scale.training, **training},
        **more,
    )
    return spec.model_copy(update={"data": spec.data.model_copy(update={"seed": scale.draw})})
