"""The table and its summary, from the rows that are there; see `benchmarks.paper.curves` for those of the figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import MILLIONTHS, RESULTS, gain_percent, publish, unpack
from benchmarks.paper.reference import TABLE
from benchmarks.paper.scales import ROWS, SCALES
from splitveil.errors import SpecError
from splitveil.metrics.tradeoff import DeltaSummary, Points, paired_delta

__all__ = ["FOLDER", "build", "stored"]

FOLDER = RESULTS / "paper"
_COLUMNS = ("train", "infer", "gan_train", "gan_infer")


def stored() -> list[dict[str, Any]]:
    """All rows that are there, in the order of the table."""
    files = (FOLDER / f"{row}@{scale}.json" for row in ROWS for scale in SCALES)
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def build() -> None:
    """Write ``results/paper/cifar10.json``."""
    rows = [row for row in stored() if row["row"] in TABLE]
    if not rows:
        raise SpecError(f"expected rows in '{FOLDER}', got none: make one with --row")
    lines = [line for row in rows for line in _lines(row)]
    scales = sorted({row["scale"] for row in rows})
    summary: dict[str, Any] = {
        "scale": {f"{row['row']}@{row['scale']}": row["scale"] for row in rows},
        "seeds": {scale: SCALES[scale].seeds for scale in scales},
        "rows": len(rows),
    }
    for scale in scales:
        held = [row for row in rows if row["scale"] == scale]
        summary[f"gain_paper_protocol_pct_{scale}"] = {
            column: _mean([_gain_pct(row, "paper", column) for row in held]) for column in _COLUMNS
        }
        honest = {row["row"]: _honest(row, "paper", "without") for row in held}
        beating = {row["row"]: _honest(row, "ours", "paper") for row in held}
        summary[f"gain_honest_db_{scale}"] = {name: found.mse_db for name, found in honest.items()}
        summary[f"gain_honest_pct_{scale}"] = _mean([gain_percent(found) for found in honest.values()])
        summary[f"ours_over_paper_cem_db_{scale}"] = {name: found.mse_db for name, found in beating.items()}
        summary[f"ours_over_paper_cem_settled_db_{scale}"] = {
            row["row"]: _honest(row, "ours", "paper_settled").mse_db
            for row in held
            if "paper_settled" in ROWS[row["row"]].kinds
        }
    main = "full" if "full" in scales else scales[0]
    summary["gain_paper_protocol_pct"] = summary[f"gain_paper_protocol_pct_{main}"]["train"]
    summary["gain_honest_pct"] = summary[f"gain_honest_pct_{main}"]
    deltas = [found[0] for found in summary[f"ours_over_paper_cem_db_{main}"].values() if found]
    summary["best_over_paper_cem_db"] = max(deltas) if deltas else None
    publish("paper/cifar10", summary, lines)


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per kind and noise level, means over the seeds, the paper's figures beside."""
    printed, lines = TABLE[row["row"]], list[dict[str, Any]]()
    for kind, noise_std in sorted({(point["kind"], point["noise_std"]) for point in row["points"]}, reverse=True):
        held = [point for point in row["points"] if (point["kind"], point["noise_std"]) == (kind, noise_std)]
        place = int(kind != "without")
        lines.append(
            {
                "row": row["row"],
                "scale": row["scale"],
                "kind": kind,
                "noise_std": noise_std,
                "accuracy": _mean([point["accuracy"]["mean"] for point in held]),
                **{
                    f"{column}_mse": _mean(
                        [point["paper"][column]["mse"] for point in held if column in point["paper"]]
                    )
                    for column in _COLUMNS
                },
                "honest_mse": _mean([point["honest"]["mse"]["mean"] for point in held]),
                "honest_by": held[0]["honest"]["attack"],
                "printed_accuracy": printed.accuracy[place] / 100,
                **{f"printed_{column}_mse": getattr(printed, column)[place] for column in _COLUMNS},
            }
        )
    return lines


def _gain_pct(row: dict[str, Any], kind: str, column: str) -> float | None:
    """At the same noise, mean over noise levels and seeds, as the paper's table compares."""
    of = {(point["kind"], point["noise_std"], point["seed"]): point["paper"].get(column) for point in row["points"]}
    found = [
        100 * (entry["mse"] / without["mse"] - 1)
        for (name, noise_std, seed), entry in of.items()
        if name == kind and entry and (without := of["without", noise_std, seed])
    ]
    return _mean(found)


def _honest(row: dict[str, Any], kind: str, over: str) -> DeltaSummary:
    """At equal accuracy, over the noise levels, seeds and pictures."""
    return paired_delta(_points(row, over), _points(row, kind), rng=np.random.default_rng(0))


def _points(row: dict[str, Any], kind: str) -> Points:
    levels = sorted({point["noise_std"] for point in row["points"]})
    of = {(point["noise_std"], point["seed"]): point for point in row["points"] if point["kind"] == kind}
    tables = [
        np.stack([np.stack([unpack(of[level, seed][key], scale) for seed in range(row["seeds"])]) for level in levels])
        for key, scale in (("correct", 1), ("error", MILLIONTHS))
    ]
    return Points(*tables)


def _mean(values: Sequence[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return float(np.mean(held)) if held else None
