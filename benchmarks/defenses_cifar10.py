"""Every defense with and without conditional entropy, attacked by the suite ``standard``: one row at a time.

``python -m benchmarks.defenses_cifar10 --data FOLDER --row noise_arl@0.1`` trains and audits the defense at that level,
alone and with CEM, and writes ``results/defenses_cifar10/noise_arl@0.1@quick.json``; stopped, it goes on where it was.
Of a row that is there, a side is not computed again unless its settings have changed. ``--publish`` builds the table of
all rows of which both sides are there.

Two levels far apart, the same for both sides, are what a gain at equal accuracy takes: CEM costs some points, so its
curve meets the other one between them. CEM counts information by the pixels that it shows (surrogate ``pixels``). Its
weight rises with the level, from one end of `WEIGHTS` to the other: it does not change when features and noise grow
together, so that at one weight all levels would lie close together.

A level is of noise, but for ``vib``, whose noise is learned wherever it begins: there it is the weight of its penalty.
Defenses whose protection is not noise have lower levels than the others.
An audit whose best attacker was still learning is made again with twice the epochs, and twice again.
``distcorr`` is ``noise_nopeek`` with less noise, and ``ressfl`` is ``noise_arl`` with less, as in the paper: they have
no level in common.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.harness import (
    RESULTS,
    SMALLER,
    accuracy_of,
    gain_percent,
    least_error,
    pack,
    plug_in,
    publish,
    rising_weight,
    unpack,
)
from splitveil.audit.run import audit_run
from splitveil.cli.common import progress_bar
from splitveil.defenses import Defense, conditional_entropy, load_defense
from splitveil.defenses.penalties.conditional_entropy import Surrogate
from splitveil.errors import SpecError
from splitveil.experiments.api import make_spec
from splitveil.experiments.environment import describe_environment, pick_device
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.storage import attack_errors
from splitveil.experiments.training import train_run
from splitveil.files import write_text
from splitveil.metrics.tradeoff import DeltaSummary, Points, paired_delta
from splitveil.records import PREDICTIONS, RunRecord

# Of conditional entropy, per nat, at the lowest and at the highest level of every preset. Chosen for bottleneck on
# another draw of half as many pictures: at noise 0.1 it gained 2.0 dB at weight 0.1 and 1.4 at 0.3 (with surrogate
# "bound" 1.5 at 0.25); at noise 0.4, 0.1 and 0.3 differed by 1.2 points of accuracy and 0.8 dB
WEIGHTS = (0.1, 0.2)
SURROGATE: Surrogate = "pixels"
GRID, NOISY, QUIET = (0.05, 0.1, 0.2, 0.4), (0.05, 0.4), (0.025, 0.4)
LEVELS = {
    **dict.fromkeys(("bottleneck", "noise_arl"), GRID),
    **dict.fromkeys(("noise_nopeek", "shredder", "ensembler"), NOISY),
    "distcorr": (0.025, 0.3),
    "ressfl": (0.025, 0.35),
    "vib": (0.5, 10.0),
}
KNOBS = {"vib": "weight"}  # what a level is of, where it is not of noise
PAPER = ("bottleneck", "distcorr", "dropout", "patrol", "ressfl", "noise_nopeek", "noise_arl")
OTHERS = ("shredder", "disco", "sca", "vib", "hsic", "ensembler")
EFFORTS = (1, 2, 4)  # times the epochs of attackers
STILL_LEARNING = frozenset({"converged", "budget_suffices"})
FOLDER = RESULTS / "defenses_cifar10"
BOTH = ("without", "with")


def row_names() -> Iterator[str]:
    """All rows, the paper's first."""
    for preset in (*PAPER, *OTHERS):
        for level in LEVELS.get(preset, QUIET):
            yield f"{preset}@{level:g}"


def weight_of(row: str) -> float:
    """Of conditional entropy in a row."""
    preset, _, level = row.partition("@")
    return rising_weight(WEIGHTS, LEVELS.get(preset, QUIET), float(level))


def defense_of(row: str, kind: str, recipe: str) -> Defense:
    """The defense of a row, ``with`` conditional entropy or ``without``."""
    preset, _, level = row.partition("@")
    smaller = SMALLER.get(preset, {}) if recipe == "quick" else {}
    alone = load_defense(preset, {KNOBS.get(preset, "noise_std"): float(level), **smaller})
    return alone if kind == "without" else alone + conditional_entropy(weight_of(row), surrogate=SURROGATE)


def trained(defense: Defense, data: str, recipe: str, seed: int, out: Path) -> RunRecord:
    """The run of a defense, trained where it is not there."""
    spec = make_spec(data, defense=plug_in(defense), recipe=load_recipe(recipe), seed=seed)
    return train_run(spec, out, observer=progress_bar(out.name))


def measure(record: RunRecord, undefended: RunRecord, recipe: str) -> dict[str, Any]:
    """Audit, again with more effort while the best attacker still learns, and what the row says of one of its runs."""
    for effort in EFFORTS:
        found = audit_run(
            record,
            suite="standard",
            recipe=load_recipe(recipe),
            effort=effort,
            undefended=undefended,
            observe=lambda part: progress_bar(f"{record.name}: {part}"),
        )
        failed = [control.name for control in found.controls if control.state == "fail"]
        if STILL_LEARNING.isdisjoint(failed):
            break
    worst, evaluation = least_error(record.attacks), record.evaluation
    assert evaluation is not None
    return {
        "accuracy": accuracy_of(record).model_dump(),
        **{metric: worst.metrics[metric].model_dump() for metric in ("mse", "psnr", "ssim")},
        "attack": worst.attack.model_dump(),
        "converged": worst.converged,
        "recognised": worst.beyond_pixels["recognised"].mean if "recognised" in worst.beyond_pixels else None,
        "status": found.status,
        "failed_controls": failed,
        "effort": effort,
        "edge_parameters": evaluation.edge_parameters,
        "edge_multiply_adds": evaluation.edge_multiply_adds,
        "payload_bytes": evaluation.payload_bytes,
        "train_s": evaluation.elapsed_s,
        "environment": describe_environment(pick_device(None)),
        "data_digest": record.spec.data.digest,
        "correct": pack(load_file(record.path / PREDICTIONS)["accuracy"], 1),
        "error": pack(attack_errors(record.path, worst).numpy()),
    }


def _is_learned(side: dict[str, Any]) -> bool:
    """Whether the best attacker of a side had learned what it can, or all that it may."""
    return STILL_LEARNING.isdisjoint(side["failed_controls"]) or side.get("effort", 1) == EFFORTS[-1]


def settings_of(row: str, recipe: str, seed: int) -> dict[str, Any]:
    """All that decides a row's numbers but the code."""
    return {
        "row": row,
        "preset": row.partition("@")[0],
        "level": float(row.partition("@")[2]),
        "weight": weight_of(row),
        "recipe": recipe,
        "seed": seed,
        "suite": "standard",
        "defenses": {kind: plug_in(defense_of(row, kind, recipe)).model_dump() for kind in BOTH},
    }


def run_row(row: str, data: str, recipe: str, seed: int, out: Path, sides: Sequence[str] = BOTH) -> Path:
    """Compute what is missing of these sides of a row, and write each once it is there; returns the row's file.

    Raises:
        SpecError: the file holds a row of another seed, scale or suite, or a side of other pictures.
    """
    file, settings = FOLDER / f"{row}@{recipe}.json", settings_of(row, recipe, seed)
    found = _held_sides(file, settings)
    missing = [kind for kind in sides if kind not in found or not _is_learned(found[kind])]
    if not missing:
        return file
    undefended = trained(load_defense("none", {}), data, recipe, seed, out / "none")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind in missing:
        name = f"{row}-{kind}-{weight_of(row):g}" if kind == "with" else f"{row}-{kind}"
        record = trained(defense_of(row, kind, recipe), data, recipe, seed, out / name)
        measured = measure(record, undefended, recipe)
        found = _held_sides(file, settings) | {kind: measured}  # another process may have written the other side
        _check_pictures(f"'{file}'", [found])
        there = {side: found[side] for side in BOTH if side in found}
        write_text(file, json.dumps(settings | there, indent=1, allow_nan=False) + "\n")
    return file


def _held_sides(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The sides in a row's file whose defense is today's."""
    held = json.loads(file.read_text()) if file.is_file() else {}
    changed = [name for name in ("row", "recipe", "seed", "suite") if held and held.get(name) != settings[name]]
    if changed:
        raise SpecError(f"expected the row of these settings in '{file}', got other {', '.join(changed)}: remove it")
    return {kind: held[kind] for kind in BOTH if kind in held and held["defenses"][kind] == settings["defenses"][kind]}


def _check_pictures(where: str, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse sides of other pictures, of those that say which: gains pair them picture by picture."""
    digests = {row[kind].get("data_digest") for row in rows for kind in BOTH if kind in row} - {None}
    if len(digests) > 1:
        raise SpecError(
            f"expected sides of the same pictures in {where}, got {len(digests)} digests: remove those of others"
        )


def points(rows: list[dict[str, Any]], kind: str) -> Points:
    """The runs of one defense, one point per noise level, one seed."""
    return Points(
        np.stack([unpack(row[kind]["correct"], 1)[None] for row in rows]),
        np.stack([unpack(row[kind]["error"])[None] for row in rows]),
    )


def gain(rows: list[dict[str, Any]]) -> DeltaSummary:
    """What conditional entropy gains on one defense at equal accuracy, over its noise levels."""
    return paired_delta(points(rows, "without"), points(rows, "with"), rng=np.random.default_rng(0))


def _interval(name: str, found: dict[str, Any]) -> dict[str, float]:
    return {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def table(rows: list[dict[str, Any]], recipe: str) -> None:
    """Build the summary of all rows that are there; those that an audit calls invalid are listed, and grade nothing."""
    if not rows:
        raise SpecError(f"expected rows in '{FOLDER}', got none: make one with --row")
    lines: list[dict[str, Any]] = []
    gains: dict[str, DeltaSummary] = {}
    for preset in (*PAPER, *OTHERS):
        held = [row for row in rows if row["preset"] == preset]
        graded = [row for row in held if all(row[kind]["status"] == "valid" for kind in BOTH)]
        if len(graded) > 1:
            gains[preset] = gain(graded)
        for row in held:
            for kind in BOTH:
                found = row[kind]
                lines.append(
                    {
                        "row": row["row"] + (" + CEM" if kind == "with" else ""),
                        "accuracy": found["accuracy"]["mean"],
                        "mse": found["mse"]["mean"],
                        **_interval("mse", found["mse"]),
                        **_interval("psnr_db", found["psnr"]),
                        **_interval("ssim", found["ssim"]),
                        "attack": found["attack"]["name"],
                        "edge_parameters": found["edge_parameters"],
                        "edge_multiply_adds": found["edge_multiply_adds"],
                        "payload_bytes": found["payload_bytes"],
                        "converged": found["converged"],
                        "status": found["status"],
                    }
                )
    percent = {name: more for name, item in gains.items() if (more := gain_percent(item.delta)) is not None}
    harmed = sorted(name for name, item in gains.items() if item.mse_db and item.mse_db[1] < 0)
    gained = sorted(name for name, item in gains.items() if item.mse_db and item.mse_db[0] > 0)
    summary = {
        "mean_gain_pct": float(np.mean(list(percent.values()))) if percent else None,
        "gain_pct": percent,
        "gain_db": {name: item.mse_db for name, item in gains.items() if item.mse_db},
        "point_db": {name: item.delta.mse_db for name, item in gains.items() if item.delta},
        "presets": len(percent),
        "presets_gained": gained,
        "presets_harmed": harmed,
        "without_overlap": sorted(set(gains) - set(percent)),
        "invalid_rows": [row["row"] for row in rows if any(row[kind]["status"] != "valid" for kind in BOTH)],
        "pictures": len(unpack(rows[0]["with"]["error"])),
        "seeds": 1,
        "scale": recipe,
        "surrogate": SURROGATE,
        "weights": WEIGHTS,
    }
    publish("defenses_cifar10", summary, lines)


def stored_rows(recipe: str) -> list[dict[str, Any]]:
    """All rows of which both sides are there at the scale of a recipe, in the order of the table.

    Raises:
        SpecError: one is of other settings than those of today.
    """
    files = (FOLDER / f"{name}@{recipe}.json" for name in row_names())
    held: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files if file.is_file()]
    rows = [row for row in held if all(kind in row for kind in BOTH)]
    other = [row["row"] for row in rows if row["defenses"] != settings_of(row["row"], recipe, row["seed"])["defenses"]]
    if other:
        raise SpecError(
            f"expected rows of today's settings, got others of {', '.join(other)}: run them with --row first"
        )
    _check_pictures(f"'{FOLDER}'", rows)
    return rows


def _state_of(file: Path) -> str:
    held = json.loads(file.read_text()) if file.is_file() else {}
    return {0: "-", 1: "half", 2: "done"}[sum(kind in held for kind in BOTH)]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="Folder of CIFAR-10 as parquet.")
    parser.add_argument("--row", nargs="*", default=[], choices=list(row_names()), metavar="PRESET@LEVEL")
    parser.add_argument("--side", nargs="*", default=BOTH, choices=BOTH, help="Of a row; both unless told.")
    parser.add_argument("--out", type=Path, default=Path("runs/defenses_cifar10"))
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--publish", action="store_true", help="Build the table of the rows that are there.")
    parser.add_argument("--list", action="store_true", help="Say which rows are there.")
    options = parser.parse_args()
    if options.list:
        for name in row_names():
            print(name, _state_of(FOLDER / f"{name}@{options.recipe}.json"))
    for row in options.row:
        if options.data is None:
            parser.error("expected --data beside --row")
        print(run_row(row, options.data, options.recipe, options.seed, options.out, options.side))
    if options.publish:
        table(stored_rows(options.recipe), options.recipe)


if __name__ == "__main__":
    main()
