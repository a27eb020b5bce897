"""The demonstration: three models on the digits, the same attack on each."""

from __future__ import annotations

from pathlib import Path

from splitveil.errors import TrainingError
from splitveil.experiments.api import make_spec
from splitveil.experiments.compare.api import plan_cells
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.compare.run import run_cells
from splitveil.experiments.engines.jobs import Board
from splitveil.experiments.engines.processes import Processes
from splitveil.experiments.folder import check_folder
from splitveil.experiments.recipes import load_recipe
from splitveil.files import check_room, others
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

__all__ = ["BUNDLE", "DEFENSES", "PAGE", "check_demo_folder", "comparison_cells", "run_demo"]

PAGE, BUNDLE = "report.html", "bundle"

DEFENSES = (
    PlugInSpec(name="none"),
    PlugInSpec(name="gaussian", params={"noise_std": 0.1}),
    PlugInSpec(name="cem", params={"noise_std": 0.1, "weight": 0.5}),
)


CURVES = {"gaussian.noise_std": [0.1, 0.3, 0.6], "cem.noise_std": [0.1], "cem.weight": [0.2, 0.6, 2.0]}


def comparison_cells() -> list[Cell]:
    """Noise and CEM at three points each on the digits, with two seeds."""
    return plan_cells(("none", "gaussian", "cem"), data="digits", grid=CURVES, seeds=2, recipe="tiny")


def check_demo_folder(out: Path) -> None:
    """Raise `OutputError` unless `out` is free, or an earlier demo's."""
    names = [defense.name for defense in DEFENSES]
    ours = {*names, PAGE, BUNDLE, *(Path(PAGE).with_suffix(end).name for end in (".json", ".csv")), "curves"}
    check_room(out, "demo", [name for name in others(out, PAGE) if name not in ours and not name.startswith(".")])
    for name in names:
        check_folder(out / name)


def run_demo(out: Path, seed: int, board: Board) -> list[RunRecord]:
    """Train and attack none, gaussian and cem, one on each core; what is there already is not run again.

    Each run has a process of its own: a script that calls this must do so below ``if __name__ == "__main__":``.

    Args:
        out: folder for the runs, one sub-folder each.
        seed: of training and attack.
        board: hears of progress.

    Raises:
        TrainingError: a run failed; it says which and why.
    """
    recipe = load_recipe("tiny")
    check_demo_folder(out)
    specs = [make_spec("digits", defense=defense, recipe=recipe, seed=seed) for defense in DEFENSES]
    cells = [Cell(spec.defense.name, spec, recipe.attack) for spec in specs]
    threat = ThreatModel.preset("white_box")
    for outcome in run_cells(cells, out, threat=threat, engine=Processes(), board=board):
        if outcome.error is not None:
            raise TrainingError(f"expected the demo's run '{outcome.name}' to finish, got: {outcome.error}")
    return [RunRecord(out / cell.name) for cell in cells]
