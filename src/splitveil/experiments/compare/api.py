"""A comparison from a few words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from splitveil.data.sources import guess_source
from splitveil.errors import OutputError, SpecError, SplitveilError, ThreatModelError
from splitveil.experiments.api import default_recipe, make_spec
from splitveil.experiments.compare.analysis import analyse
from splitveil.experiments.compare.plan import Cell, Grid, cell_of, expand
from splitveil.experiments.compare.record import FILE, ComparisonRecord
from splitveil.experiments.compare.run import run_cells
from splitveil.experiments.completing import complete, prepare
from splitveil.experiments.engines.jobs import Board, Engine
from splitveil.experiments.engines.processes import Processes
from splitveil.experiments.folder import check_apart
from splitveil.experiments.planning.record import FILE as CUTS
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.starting import seal_weights
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.files import check_room, others, write_text
from splitveil.registry import ATTACKS, build
from splitveil.specs import PlugInSpec, RunSpec, TrainingSpec, parse, read_json
from splitveil.threats import ThreatModel

__all__ = ["PLAN", "RUNS", "Kind", "claim_folder", "compare", "plan_cells", "seal_cells"]

RUNS = "runs"
PLAN = "plan.json"
"""Written before the first run: it says whose folder it is, a comparison's or a plan's, and which runs it asks for."""

Kind = Literal["comparison", "plan"]
_RECORDS: Mapping[Kind, str] = {"comparison": FILE, "plan": CUTS}


def plan_cells(
    defenses: Sequence[str],
    *,
    data: str,
    grid: Grid,
    seeds: int,
    recipe: str | None = None,
    model: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    attack: Mapping[str, Any] | None = None,
    limit: int | None = None,
    threat: ThreatModel | None = None,
    weights: str | Path | None = None,
    stream: bool | None = None,
) -> list[Cell]:
    """The cells of a comparison, all points of the first seed first; the pictures are read once, to seal them.

    Args:
        defenses: registry names.
        data: see `splitveil.train`.
        grid: values by parameter.
        seeds: how many, from 0.
        recipe: ``tiny``, ``quick`` or ``full``.
        model: registry name; the recipe's by default.
        model_kwargs: for the model.
        training: changes to the recipe's training.
        attack: changes to the recipe's attack.
        limit: the most pictures to use.
        threat: of the attacks; white box by default.
        weights: to start every run from, see `splitveil.train`.
        stream: see `splitveil.train`.

    Raises:
        SpecError: a value out of range; it is found before anything runs.
        ThreatModelError: the attack needs more than the threat model grants.
    """
    if seeds < 1:
        raise SpecError(f"expected at least 1 seed, got {seeds}")
    chosen = expand(defenses, grid)
    plan = load_recipe(recipe or default_recipe(guess_source(data)[0]))
    settings = parse(TrainingSpec, {**plan.training.model_dump(), **(training or {})}, "training")
    specs = [
        make_spec(
            data,
            model=model,
            model_kwargs=model_kwargs,
            defense=defense,
            recipe=plan,
            seed=seed,
            limit=limit,
            weights=weights,
            stream=stream,
        ).model_copy(update={"training": settings})
        for seed in range(seeds)
        for defense in chosen
    ]
    attacker = PlugInSpec(name=plan.attack.name, params={**plan.attack.params, **(attack or {})})
    return seal_cells(specs, attacker, threat, load_data_spec(specs[0].data), points=len(chosen))


def seal_cells(
    specs: Sequence[RunSpec], attack: PlugInSpec, threat: ThreatModel | None, pictures: LoadedData, *, points: int
) -> list[Cell]:
    """Cells of specs of the same pictures; what is wrong with them is found before anything runs.

    Args:
        specs: of all runs, those that differ by more than their seed first.
        attack: on each.
        threat: of the attack; white box by default.
        pictures: of all specs.
        points: how many differ by more than their seed.

    Raises:
        SpecError: a model that does not fit the pictures.
        ThreatModelError: the attack needs more than the threat model grants.
    """
    _check_attack(attack, threat or ThreatModel.preset("white_box"))
    cells = [cell_of(_sealed(spec, pictures), attack) for spec in specs]
    _check_models(cells[:points], pictures)
    return cells


def _sealed(spec: RunSpec, pictures: LoadedData) -> RunSpec:
    """With the digests of its pictures and of its weights: they give a cell its name."""
    data = spec.data.model_copy(update={"digest": pictures.splits.digest})
    weights = None if spec.weights is None else seal_weights(spec.weights)
    return spec.model_copy(update={"data": data, "weights": weights})


def claim_folder(out: Path, cells: Sequence[Cell], *, kind: Kind, recipe: str, threat: ThreatModel) -> None:
    """Take a folder for these cells: new, empty, or one with earlier cells of the same kind.

    Args:
        out: the folder.
        cells: to run in it.
        kind: what they are for.
        recipe: name, for the file that marks the folder.
        threat: of the attacks, likewise.

    Raises:
        OutputError: it holds something else, or lies among the pictures.
    """
    marked = _is_plan(out / PLAN)
    check_room(out, kind, [] if marked else others(out, PLAN))
    held = _kind_of(out) if marked else None
    if held not in (None, kind):
        raise OutputError(
            f"expected a new folder, or an earlier {kind}, at '{out}', got a folder of a {held}: choose another --out"
        )
    for cell in cells:
        check_apart(out, cell.spec.data)
    plan = {"kind": kind, "recipe": recipe, "threat": threat.to_json(), "runs": [cell.name for cell in cells]}
    write_text(out / PLAN, json.dumps(plan, indent=2) + "\n")


def compare(
    cells: Sequence[Cell],
    out: Path,
    *,
    board: Board,
    recipe: str,
    threat: ThreatModel | None = None,
    engine: Engine | None = None,
    trusted: str | None = None,
) -> ComparisonRecord:
    """Run what is not there yet, analyse all of it, and write ``comparison.json``.

    Args:
        cells: of `plan_cells`.
        out: folder of the comparison; new, empty, or an earlier comparison's, which goes on.
        board: hears of progress.
        recipe: name, for the record.
        threat: of the attacks; white box by default.
        engine: runs what is not there yet; processes of this machine by default.
        trusted: a model factory outside splitveil that the user named.

    Raises:
        OutputError: `out` holds something else.
        InputError: no run has finished.
    """
    out, threat = Path(out), threat or ThreatModel.preset("white_box")
    claim_folder(out, cells, kind="comparison", recipe=recipe, threat=threat)
    outcomes = run_cells(cells, out / RUNS, threat=threat, engine=engine or Processes(), board=board, trusted=trusted)
    failed = {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}
    record = analyse(cells, out / RUNS, threat=threat, recipe=recipe, failed=failed)
    write_text(out / FILE, record.model_dump_json(indent=2) + "\n")
    return record


def _is_plan(file: Path) -> bool:
    """Whether a comparison or a plan wrote it; others call their files so, too."""
    try:
        data = read_json(file) if file.is_file() else None
    except SplitveilError:
        return False
    return isinstance(data, dict) and {"recipe", "threat", "runs"} <= set(data)


def _kind_of(out: Path) -> str | None:
    """What a marked folder is for; older marks do not say it, then what was found there does, if anything."""
    told = read_json(out / PLAN).get("kind")
    if isinstance(told, str):
        return told
    return next((kind for kind, record in _RECORDS.items() if (out / record).is_file()), None)


def _check_attack(attack: PlugInSpec, threat: ThreatModel) -> None:
    configured = build(ATTACKS.load(attack.name), attack.params, f"attack '{attack.name}'")
    missing = threat.missing(configured.needs)
    if missing:
        raise ThreatModelError(
            f"expected a threat model that grants {', '.join(missing)} to attack '{attack.name}', got one that grants "
            f"{', '.join(sorted(threat.grants)) or 'nothing'}: choose another --threat"
        )


def _check_models(cells: Sequence[Cell], pictures: LoadedData) -> None:
    """Build the model of each point once, so that a fault costs no training."""
    for cell in cells:
        trusted, source = cell.spec.model.factory, pictures.source
        spec, original = complete(cell.spec, source, pictures.splits, trusted)
        prepare(spec, source, original, trusted)
