"""What a model that has learned, its answers and a tail that settles give CEM, the paper's CEM, and noise alone.

``python -m benchmarks.settling --data FOLDER``: quick models of seed 0, each attacked by the second decoder
of the suite ``standard``. A run whose head only settles differently is not attacked again: its releases are the same.
Stopped, it goes on where it was; ``--only`` does some rows, ``--publish`` builds the table of those that are there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.harness import at_least, errors_of, gain_at_accuracy, plug_in, publish
from benchmarks.paper.scales import DISTILLED, papers_cem
from splitveil.audit.suites import load_suite
from splitveil.cli.common import progress_bar
from splitveil.defenses import Defense, conditional_entropy, load_defense
from splitveil.experiments.api import make_spec
from splitveil.experiments.attacking import attack_target, run_target
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import train_run
from splitveil.records import RunRecord
from splitveil.threats import ThreatModel

NOISE_STD, SETTLE, SEED = 0.1, 1.0, 0


@dataclass(frozen=True)
class Row:
    """A way of training.

    Args:
        defense: of it.
        settles: whether the tail learns on alone.
        taught: whether it starts from the undefended model and learns from its answers too.
        same_head: the row whose head this one has, bit for bit.
    """

    defense: Defense
    settles: bool = False
    taught: bool = False
    same_head: str | None = None


def noise(noise_std: float) -> Defense:
    """Noise alone."""
    return load_defense("gaussian", {"noise_std": noise_std})


def ours(weight: float) -> Defense:
    """Noise, and CEM as this project has it."""
    return noise(NOISE_STD) + conditional_entropy(weight)


def papers(weight: float) -> Defense:
    """Noise, and CEM as the paper's released code has it."""
    return noise(NOISE_STD) + papers_cem(weight)


ROWS = {
    "none": Row(load_defense("none", {})),
    "noise .1": Row(noise(NOISE_STD)),
    "noise .1 settled": Row(noise(NOISE_STD), settles=True, same_head="noise .1"),
    "noise .1 taught": Row(noise(NOISE_STD), settles=True, taught=True),
    "noise .3 taught": Row(noise(0.3), settles=True, taught=True),
    "paper 2": Row(papers(2.0)),
    "paper 2 settled": Row(papers(2.0), settles=True, same_head="paper 2"),
    "paper 2 taught": Row(papers(2.0), settles=True, taught=True),
    "ours .2": Row(ours(0.2)),
    "ours .2 settled": Row(ours(0.2), settles=True, same_head="ours .2"),
    "ours .4 taught": Row(ours(0.4), settles=True, taught=True),
    "ours 1.6 taught": Row(ours(1.6), settles=True, taught=True),
}
CURVE = ("ours .4 taught", "ours 1.6 taught")
OTHERS = ("paper 2", "paper 2 settled", "paper 2 taught", "noise .1 taught", "noise .3 taught")


def folder(out: Path, name: str) -> Path:
    """Of a row's run."""
    return out / name.replace(" .", "-0.").replace(" ", "-")


def trained(name: str, data: str, out: Path) -> RunRecord:
    """The run of a row, trained where it is not there."""
    row = ROWS[name]
    more: dict[str, Any] = {}
    if row.taught:
        more = {"task": DISTILLED, "weights": trained("none", data, out).path}
    spec = make_spec(
        data,
        defense=plug_in(row.defense),
        recipe=load_recipe("quick"),
        seed=SEED,
        training={"settle": SETTLE} if row.settles else {},
        **more,
    )
    return train_run(spec, folder(out, name), observer=progress_bar(name))


def released_alike(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs have the same head, bit for bit."""
    first, second = (load_file(record.path / "weights.safetensors") for record in (one, other))
    return all(torch.equal(value, second[key]) for key, value in first.items() if key.startswith("head."))


def errors(record: RunRecord) -> NDArray[np.float64]:
    """Of each test picture, under the decoder."""
    recipe = load_recipe("quick")
    [entry] = [
        entry
        for entry in load_suite("standard", recipe).entries
        if entry.attack.name == "decoder" and entry.observations == 1 and entry.attack != recipe.attack
    ]
    found = attack_target(
        record,
        run_target(record),
        entry.attack,
        threat=ThreatModel.preset("white_box"),
        observer=progress_bar(record.name),
    )
    return errors_of(record, found)


def over(name: str, accuracy: dict[str, float], tables: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """How many dB the decoder errs more on ours, taught, than on another row at the accuracy of that row.

    Where ours is more accurate in all its rows, the least accurate of them is compared: at equal accuracy it would err
    by as much at least.
    """
    lowest = min(CURVE, key=lambda item: accuracy[item])
    if accuracy[name] >= accuracy[lowest]:
        mean, low, high = gain_at_accuracy(name, CURVE, accuracy, tables)
        within = accuracy[name] <= max(accuracy[item] for item in CURVE)
        return {"db": -mean, "low": -high, "high": -low, "is": "equal accuracy" if within else "extrapolated"}
    return at_least((accuracy[lowest], tables[lowest]), (accuracy[name], tables[name]))


def tell(out: Path) -> None:
    """Write the table of the rows whose runs are there."""
    records = {name: RunRecord(folder(out, name)) for name in ROWS if folder(out, name).is_dir()}
    records = {name: record for name, record in records.items() if record.finished}
    accuracy, tables = dict[str, float](), dict[str, NDArray[np.float64]]()
    for name, record in records.items():
        assert record.evaluation is not None
        accuracy[name] = record.evaluation.score.result.mean
        twin = ROWS[name].same_head
        if twin is not None and not released_alike(record, records[twin]):
            raise SystemExit(f"expected the head of '{twin}' in '{name}', got another: train both on one machine")
        tables[name] = tables[twin] if twin is not None else errors(record)
    rows = [
        {
            "row": name,
            "accuracy": accuracy[name],
            "mse": float(tables[name].mean()),
            "psnr_of_mean_db": float(-10 * np.log10(tables[name].mean())),
            "pictures": len(tables[name]),
            "train_s": record.evaluation.elapsed_s if record.evaluation else None,
        }
        for name, record in records.items()
    ]
    summary: dict[str, Any] = {
        "settled_points": {
            name: 100 * (accuracy[name] - accuracy[twin])
            for name, row in ROWS.items()
            if (twin := row.same_head) is not None and name in accuracy
        },
        "seeds": 1,
    }
    for name in OTHERS:
        if {name, *CURVE} <= set(accuracy):
            summary[f"ours_over_{name.replace(' ', '_')}"] = over(name, accuracy, tables)
    publish("settling", summary, rows)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Folder of CIFAR-10 as parquet.")
    parser.add_argument("--out", type=Path, default=Path("runs/settling"))
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--publish", action="store_true", help="Write the table of what is there.")
    options = parser.parse_args()
    for name in options.only:
        record = trained(name, options.data, options.out)
        if ROWS[name].same_head is None:
            errors(record)
    if options.publish:
        tell(options.out)


if __name__ == "__main__":
    main()
