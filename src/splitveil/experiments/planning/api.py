"""Plan a cut: price every place, and where there are pictures, train and attack a short run at some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from splitveil.data.sources import guess_source
from splitveil.defenses import Defense, load_defense
from splitveil.errors import OutputError, SpecError, UnknownNameError, UsageError
from splitveil.experiments.api import default_recipe, make_spec
from splitveil.experiments.compare.api import RUNS, claim_folder, seal_cells
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.compare.run import run_cells
from splitveil.experiments.engines.jobs import Board, Engine, SilentBoard
from splitveil.experiments.engines.processes import Processes
from splitveil.experiments.planning.analysis import judge_cuts, mark_untried
from splitveil.experiments.planning.record import FILE, PlanRecord
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.files import check_room, others
from splitveil.nets.cutting import Cut, list_cuts
from splitveil.specs import PlugInSpec, RunSpec, TrainingSpec, parse
from splitveil.threats import ThreatModel

__all__ = ["Tries", "plan", "spread"]

_UNDEFENDED = PlugInSpec(name="none")


@dataclass(frozen=True, slots=True)
class Tries:
    """How cuts are tried on pictures.

    Args:
        defense: under which every cut is trained, `cem` by default.
        recipe: ``tiny``, ``quick`` or ``full``; ``tiny`` for the digits, else ``quick``.
        seeds: how many, from 0.
        training: changes to the recipe's training.
        attack: changes to the recipe's attack.
        limit: the most pictures to use.
        threat: of the attacks.
    """

    defense: PlugInSpec = field(default_factory=lambda: PlugInSpec(name="cem"))
    recipe: str | None = None
    seeds: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)
    attack: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    threat: ThreatModel = field(default_factory=lambda: ThreatModel.preset("white_box"))


def plan(
    model: nn.Module | str,
    data: str | Path | None = None,
    *,
    at: Sequence[str] | None = None,
    most: int = 5,
    out: str | Path | None = None,
    bottleneck: int | None = 8,
    input_shape: Sequence[int] = (3, 224, 224),
    classes: int = 10,
    defense: Defense | None = None,
    tries: Tries | None = None,
    engine: Engine | None = None,
    board: Board | None = None,
) -> PlanRecord:
    """What each place to cut a network costs, and with pictures, what it gives.

    Without pictures: payload, parameters and multiply-adds on the device, the cloud's share of these; the front is over
    the first three. With them, a short run is trained at each place under a defense and attacked, in processes of their
    own: a script that calls this must do so below ``if __name__ == "__main__":``. The front is then over accuracy and
    the attacker's error, both on validation pictures, payload and multiply-adds. An undefended run at the first place
    shows whether the attacker works. What is there already is not run again.

    Args:
        model: name as `splitveil.split` takes it; ``package.module:function`` of a factory that takes `at` and that you
            trust, with `at` given; a module, without pictures.
        data: see `splitveil.train`.
        at: places to look at; by default all, or with pictures, `most` of the front, evenly.
        most: how many that is.
        out: folder for the runs and the record; needed with pictures.
        bottleneck: channels on the wire; None leaves the features as they are.
        input_shape: ``(c, h, w)``, without pictures.
        classes: k, without pictures.
        defense: in place of that of `tries`.
        tries: how places are tried.
        engine: runs them; processes of this machine by default.
        board: hears of progress.

    Raises:
        UsageError: pictures without a folder, or with a module.
        UnknownNameError: no such place.
        OutputError: `out` holds something else.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 2))
        >>> found = plan(net, input_shape=(1, 8, 8), bottleneck=None)
        >>> [(cut.at, cut.payload_bytes, cut.front) for cut in found.cuts]
        [('0', 576, True), ('1', 576, True), ('2', 512, True), ('3', 512, True), ('4', 8, True)]
    """
    if data is None:
        return _without_pictures(model, at, out, bottleneck, tuple(input_shape), classes)
    if not isinstance(model, str):
        raise UsageError(
            f"expected the name of a network to train at each cut, got a {type(model).__name__}: write a factory with "
            "the argument 'at' and pass package.module:function, or leave the pictures out"
        )
    if out is None:
        raise UsageError("expected a folder for the runs beside pictures, got none: pass out")
    how = tries or Tries()
    if defense is not None:
        how = replace(how, defense=PlugInSpec.model_validate(defense.to_json()))
    trial = _prepare(model, str(data), at, most, bottleneck, how)
    folder = Path(out)
    claim_folder(folder, trial.cells, kind="plan", recipe=trial.recipe, threat=how.threat)
    outcomes = run_cells(
        trial.cells,
        folder / RUNS,
        threat=how.threat,
        engine=engine or Processes(),
        board=board or SilentBoard(),
        trusted=trial.trusted,
    )
    failed = {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}
    found = judge_cuts(
        model,
        trial.cells,
        folder / RUNS,
        known=trial.known,
        bottleneck=bottleneck,
        threat=how.threat,
        recipe=trial.recipe,
        failed=failed,
    )
    found.write(folder)
    return found


def _without_pictures(
    model: nn.Module | str,
    at: Sequence[str] | None,
    out: str | Path | None,
    bottleneck: int | None,
    input_shape: tuple[int, ...],
    classes: int,
) -> PlanRecord:
    if isinstance(model, str) and _is_factory(model):
        raise UsageError(f"expected pictures beside the factory '{model}', got none: pass data, or the network itself")
    found = _chosen(list_cuts(model, input_shape=input_shape, classes=classes, bottleneck=bottleneck), at)
    name = model if isinstance(model, str) else type(model).__name__
    record = mark_untried(name, found, input_shape=input_shape, classes=classes, bottleneck=bottleneck)
    if out is not None:
        _check_folder(Path(out), record)
        record.write(Path(out))
    return record


def _check_folder(out: Path, record: PlanRecord) -> None:
    """Raise `OutputError` unless `out` is free, or holds an earlier plan of this network that tried nothing."""
    if not (out / FILE).is_file():
        check_room(out, "plan", others(out, FILE))
        return
    held = PlanRecord.read(out)
    if held.trial is not None or held.model != record.model:
        kind = "one whose cuts were tried" if held.trial is not None else f"one of {held.model}"
        raise OutputError(f"expected an earlier plan of {record.model} at '{out}', got {kind}: choose another --out")


@dataclass(frozen=True, slots=True)
class _Prepared:
    cells: list[Cell]
    known: list[Cut]
    recipe: str
    trusted: str | None


def _prepare(
    model: str, data: str, at: Sequence[str] | None, most: int, bottleneck: int | None, how: Tries
) -> _Prepared:
    """All runs, the undefended ones at the first place last; what is wrong is found before anything runs."""
    if how.seeds < 1 or most < 1:
        raise SpecError(f"expected at least 1 seed and 1 place, got {how.seeds} and {most}")
    load_defense(how.defense.name, how.defense.params)
    name = how.recipe or default_recipe(guess_source(data)[0])
    recipe = load_recipe(name)
    settings = parse(TrainingSpec, {**recipe.training.model_dump(), **how.training}, "training")
    trusted = model if _is_factory(model) else None

    def spec(place: str, defense: PlugInSpec, seed: int) -> RunSpec:
        named: dict[str, Any] = {} if trusted else {"model": model, "bottleneck": bottleneck}
        made = make_spec(
            data,
            model=trusted or "cut",
            model_kwargs={**named, "at": place},
            defense=defense,
            recipe=recipe,
            seed=seed,
            limit=how.limit,
        )
        return made.model_copy(update={"training": settings})

    pictures = load_data_spec(spec("", how.defense, 0).data)
    known, places = _places(model, pictures, at, most, bottleneck)
    points = [(place, how.defense) for place in places]
    if how.defense.name != _UNDEFENDED.name:
        points.append((places[0], _UNDEFENDED))
    specs = [spec(place, defense, seed) for seed in range(how.seeds) for place, defense in points]
    attack = PlugInSpec(name=recipe.attack.name, params={**recipe.attack.params, **how.attack})
    cells = seal_cells(specs, attack, how.threat, pictures, points=len(points))
    return _Prepared(cells, known, name, trusted)


def _places(
    model: str, pictures: LoadedData, at: Sequence[str] | None, most: int, bottleneck: int | None
) -> tuple[list[Cut], list[str]]:
    """What is known of the places without training, and which of them to try."""
    if _is_factory(model):
        if not at:
            raise UsageError(f"expected the places to cut beside the factory '{model}', got none: name them")
        return [], list(dict.fromkeys(at))
    source = pictures.source
    found = list_cuts(model, input_shape=source.input_shape, classes=source.classes, bottleneck=bottleneck)
    if at:
        chosen = _chosen(found, at)
        return chosen, [cut.name for cut in chosen]
    found = [cut for cut in found if cut.cloud_share > 0]
    marked = mark_untried(model, found, input_shape=source.input_shape, classes=source.classes, bottleneck=bottleneck)
    chosen = [cut for cut, entry in zip(found, marked.cuts, strict=True) if entry.front]
    return chosen, [chosen[number].name for number in spread(len(chosen), most)]


def _chosen(found: Sequence[Cut], at: Sequence[str] | None) -> list[Cut]:
    """Those that were named, in the order of the network."""
    names = [cut.name for cut in found]
    for place in at or ():
        if place not in names:
            raise UnknownNameError("place to cut", place, names)
    return [cut for cut in found if not at or cut.name in at]


def _is_factory(model: str) -> bool:
    return ":" in model and not model.startswith("timm:")


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly, with the first and the last.

    Example:
        >>> spread(9, 3), spread(2, 5), spread(4, 1)
        ([0, 4, 8], [0, 1], [0])
    """
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / max(most - 1, 1)) for number in range(most)]
