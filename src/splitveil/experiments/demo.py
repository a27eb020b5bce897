"""The demonstration: three models on the digits, the same attack on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from splitveil.errors import OutputError
from splitveil.experiments.api import make_spec
from splitveil.experiments.attacking import attack_run
from splitveil.experiments.compare.api import plan_cells
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.folder import check_folder
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.files import others
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec
from splitveil.training.observer import Observer

__all__ = ["DEFENSES", "PAGE", "check_demo_folder", "comparison_cells", "run_demo"]

PAGE = "report.html"

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
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder for the demo at '{out}', got a file: choose another --out")
    names = [defense.name for defense in DEFENSES]
    found = others(out, PAGE) if out.is_dir() else []
    strange = [name for name in found if name not in {*names, PAGE, "curves"} and not name.startswith(".")]
    if strange:
        raise OutputError(
            f"expected an empty or new folder, or an earlier demo, at '{out}', got other files "
            f"({', '.join(strange[:3])}): choose another --out"
        )
    for name in names:
        check_folder(out / name)


def run_demo(out: Path, seed: int, observe: Callable[[str], Observer]) -> list[RunRecord]:
    """Train and attack none, gaussian and cem; what is there already is not run again.

    Args:
        out: folder for the runs, one sub-folder each.
        seed: of training and attack.
        observe: makes the observer of a run from its name.
    """
    recipe = load_recipe("tiny")
    specs = [make_spec("digits", defense=defense, recipe=recipe, seed=seed) for defense in DEFENSES]
    check_demo_folder(out)
    data = load_data_spec(specs[0].data)
    records = []
    for spec in specs:
        name = spec.defense.name
        records.append(train_run(spec, out / name, observer=observe(name), data=data))
        attack_run(records[-1], recipe.attack, seed=seed, observer=observe(name), data=data)
    return records
