"""The table and its summary, from the rows that are there; see `benchmarks.paper.curves` for those of the figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import MILLIONTHS, RESAMPLES, RESULTS, at_least, gain_percent, publish, unpack
from benchmarks.paper.points import points_of, seal_of
from benchmarks.paper.reference import TABLE
from benchmarks.paper.scales import ROWS, SCALES
from splitveil.errors import SpecError
from splitveil.metrics.tradeoff import DeltaSummary, Points, TradeOff, delta, paired_delta

__all__ = ["FOLDER", "build", "check_settings", "stored"]

FOLDER = RESULTS / "paper"
_LEAST_SHARED = 0.01  # of accuracy, by two curves that are compared: few points, and kinds that cost unlike
_COLUMNS = ("train", "infer", "gan_train", "gan_infer")


def stored() -> list[dict[str, Any]]:
    """All rows that are there, in the order of the table."""
    files = (FOLDER / f"{row}@{scale}.json" for row in ROWS for scale in SCALES)
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def check_settings(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse rows whose points are of other settings than those of today.

    Raises:
        SpecError: one is.
    """
    for row in rows:
        seals = [seal_of(point, SCALES[row["scale"]]) for point in points_of(row["row"], SCALES[row["scale"]])]
        other = sum(point["settings"] != seal for point, seal in zip(row["points"], seals, strict=True))
        if other:
            raise SpecError(
                f"expected all points of row '{row['row']}' at the settings of scale '{row['scale']}', got {other} of "
                f"others: run --row {row['row']} --scale {row['scale']} first, which computes these anew"
            )


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
        summary[scale] = _of_scale([row for row in rows if row["scale"] == scale])
    main = summary["full" if "full" in scales else scales[0]]
    summary["gain_paper_protocol_pct"] = main["gain_paper_protocol_pct"]["train"]
    summary["gain_paper_protocol_at_equal_noise_pct"] = main["gain_at_equal_noise_pct"]["train"]
    summary["gain_honest_pct"] = main["gain_honest_pct"]
    for name in ("paper_cem", "paper_cem_taught"):
        summary[f"best_over_{name}_db"] = main[f"ours_over_{name}"]["mean_db"]
        summary[f"best_over_{name}_is"] = main[f"ours_over_{name}"]["is"]
    publish("paper/cifar10", summary, lines)


def _of_scale(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Gains over the rows of one scale; those of the paper by the same arithmetic, over the same rows."""
    honest = {row["row"]: _honest(row, "paper", "without") for row in rows}
    percent = [gained for found in honest.values() if (gained := gain_percent(found.delta)) is not None]
    controlled = [row for row in rows if "paper_settled" in ROWS[row["row"]].kinds]
    return {
        "gain_paper_protocol_pct": {
            column: _mean([_at_accuracy_pct(row, column) for row in rows]) for column in _COLUMNS
        },
        "gain_paper_protocol_limits_pct": _limits(rows),
        "gain_paper_protocol_rows_pct": {row["row"]: _at_accuracy_pct(row, "train") for row in rows},
        "gain_at_equal_noise_pct": {column: _mean([_gain_pct(row, column) for row in rows]) for column in _COLUMNS},
        "accuracy_points_at_equal_noise": _mean([_lost(row) for row in rows]),
        "printed_gain_pct": {column: _mean([_printed(row["row"], column) for row in rows]) for column in _COLUMNS},
        "printed_accuracy_points": _mean(
            [TABLE[row["row"]].accuracy[1] - TABLE[row["row"]].accuracy[0] for row in rows]
        ),
        "gain_honest_pct": _mean(percent),
        "gain_honest_rows": f"{len(percent)} of {len(rows)} have accuracies in common",
        "gain_honest_db": {name: _told(found) for name, found in honest.items()},
        "ours_over_paper_cem": _beating(rows, "paper"),
        "ours_over_paper_cem_taught": _beating(controlled, "paper_settled"),
    }


def _beating(rows: Sequence[dict[str, Any]], over: str) -> dict[str, Any]:
    """Ours over another kind by row: at equal accuracy, or a bound; and the mean of the rows that say either."""
    found = {row["row"]: _told(_honest(row, "ours", over)) or _bound(row, over) for row in rows}
    held = [item for item in found.values() if item is not None]
    kinds = sorted({item["is"] for item in held})
    return {"mean_db": _mean([item["db"] for item in held]), "is": " or ".join(kinds) or None, "rows": found}


def _bound(row: dict[str, Any], over: str) -> dict[str, Any] | None:
    """Where one of both is more accurate in all its points than the other in any: what ours gains at least, or at most.

    The gap is between the least accurate point of the one and the most accurate point of the other. At the accuracy of
    the other, the one would err by as much at least. Interval and share are over draws of the pictures, the same for
    both points; the share is of those draws in which the one was the more accurate.
    """
    ours, theirs = (_points(row, kind) for kind in ("ours", over))
    least, most = _leads(ours, theirs), _leads(theirs, ours)
    if least is not None or most is None:
        return least
    turned = {"db": -most["db"], "low": -most["high"], "high": -most["low"], "is": "at most"}
    return {**most, **turned, "points_more_accurate": -most["points_more_accurate"]}


def _leads(one: Points, other: Points) -> dict[str, Any] | None:
    """What the one gains at least, None unless it is more accurate in all its points."""
    least, most = int(one.correct.mean((1, 2)).argmin()), int(other.correct.mean((1, 2)).argmax())
    lead = one.correct[least].mean(0, dtype=np.float64) - other.correct[most].mean(0, dtype=np.float64)
    if lead.mean() < 0:
        return None
    drawn = np.random.default_rng(0).integers(0, len(lead), size=(RESAMPLES, len(lead)))
    ahead, behind = (
        (float(item.correct[place].mean(dtype=np.float64)), item.error[place].mean(0, dtype=np.float64))
        for item, place in ((one, least), (other, most))
    )
    return {**at_least(ahead, behind), "more_accurate_share": float((lead[drawn].mean(1) >= 0).mean())}


def _told(found: DeltaSummary) -> dict[str, Any] | None:
    """The gap in dB with its interval, and in how many draws of the bootstrap there was one."""
    if found.delta is None:
        return None
    low, high = found.mse_db or (None, None)
    return {
        "db": found.delta.mse_db,
        "low": low,
        "high": high,
        "is": "equal accuracy",
        "accuracy_range": found.delta.accuracy_range,
        "overlapping_share": found.overlapping_share,
    }


def _printed(row: str, column: str) -> float:
    without, penalised = getattr(TABLE[row], column)
    return float(100 * (penalised / without - 1))


def _lost(row: dict[str, Any]) -> float | None:
    """Points of accuracy of the paper's CEM over nothing, at equal noise."""
    of = {(point["kind"], point["noise_std"], point["seed"]): point["accuracy"]["mean"] for point in row["points"]}
    pairs = [(value, of.get(("without", *rest))) for (kind, *rest), value in of.items() if kind == "paper"]
    return _mean([100 * (value - before) for value, before in pairs if before is not None])


def _limits(rows: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """Of the mean gain in the paper's protocol, were all errors at the ends of their intervals, against each other."""
    sides = [[_at_accuracy_pct(row, "train", side) for row in rows] for side in ("least", "most")]
    low, high = (_mean(side) for side in sides)
    return None if low is None or high is None else (low, high)


_SIDES = {"mean": ("mse", "mse"), "least": ("low", "high"), "most": ("high", "low")}
"""Which error of the penalised point is set against which of the other."""


def _at_accuracy_pct(row: dict[str, Any], column: str, side: str = "mean") -> float | None:
    """Gain of the paper's CEM in the paper's protocol at equal accuracy, from means over the seeds."""
    curves = list[TradeOff]()
    for kind, key in zip(("paper", "without"), _SIDES[side], strict=True):
        points = [point for point in row["points"] if point["kind"] == kind and column in point["paper"]]
        levels = [
            [point for point in points if point["noise_std"] == level]
            for level in sorted({p["noise_std"] for p in points})
        ]
        if not levels:
            return None
        accuracy = [np.mean([point["accuracy"]["mean"] for point in held]) for held in levels]
        curves.append(TradeOff.fit(accuracy, [np.mean([p["paper"][column][key] for p in held]) for held in levels]))
    return gain_percent(delta(curves[1], curves[0]))


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


def _gain_pct(row: dict[str, Any], column: str) -> float | None:
    """Of the paper's CEM at the same noise, whatever it costs in accuracy: mean over noise levels and seeds."""
    of = {(point["kind"], point["noise_std"], point["seed"]): point["paper"].get(column) for point in row["points"]}
    found = [
        100 * (entry["mse"] / without["mse"] - 1)
        for (name, noise_std, seed), entry in of.items()
        if name == "paper" and entry and (without := of["without", noise_std, seed])
    ]
    return _mean(found)


def _honest(row: dict[str, Any], kind: str, over: str) -> DeltaSummary:
    """At equal accuracy, over the noise levels, seeds and pictures."""
    rng = np.random.default_rng(0)
    return paired_delta(_points(row, over), _points(row, kind), rng=rng, least_overlap=_LEAST_SHARED)


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
