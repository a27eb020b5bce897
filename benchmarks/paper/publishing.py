"""The table and its summary, from the rows that are there; see `benchmarks.paper.curves` for those of the figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import (
    MILLIONTHS,
    RESAMPLES,
    RESULTS,
    at_least,
    gain_percent,
    gain_percent_of,
    publish,
    unpack,
)
from benchmarks.paper.points import points_of, seal_of
from benchmarks.paper.reference import TABLE
from benchmarks.paper.scales import ROWS, SCALES, Scale
from splitveil.errors import SpecError
from splitveil.metrics.tradeoff import DeltaSummary, Points, TradeOff, delta, paired_delta

__all__ = ["FOLDER", "build", "by_level", "stored"]

FOLDER = RESULTS / "paper"
_LEAST_SHARED = 0.01  # of accuracy, by two curves that are compared: few points, and kinds that cost unlike
_COLUMNS = ("train", "infer", "gan_train", "gan_infer")


def stored() -> list[dict[str, Any]]:
    """The rows that are there and of today's settings, in the order of the table; of others it says so.

    Raises:
        SpecError: of one scale, some are of other pictures than others, or of none that are known.
    """
    files = (FOLDER / f"{row}@{scale}.json" for row in ROWS for scale in SCALES)
    rows = list[dict[str, Any]]()
    for row in (json.loads(file.read_text()) for file in files if file.is_file()):
        seals = [seal_of(point, SCALES[row["scale"]]) for point in points_of(row["row"], SCALES[row["scale"]])]
        if [point["settings"] for point in row["points"]] == seals:
            rows.append(row)
        else:
            print(f"left out: {row['row']} at scale {row['scale']}, of other settings; run it with --row to publish it")
    for scale in SCALES:
        digests = {point.get("data_digest") for row in rows if row["scale"] == scale for point in row["points"]}
        if len(digests) > 1 or None in digests:
            raise SpecError(
                f"expected all rows of scale '{scale}' of the same pictures, got {len(digests)} digests: remove the "
                f"rows of others below '{FOLDER}'"
            )
    return rows


def by_level(row: Mapping[str, Any], kind: str) -> dict[float, list[dict[str, Any]]]:
    """Points of a kind at each noise level, the lowest first, one per seed, in their order."""
    points = sorted((point for point in row["points"] if point["kind"] == kind), key=lambda point: int(point["seed"]))
    levels = sorted({point["noise_std"] for point in points})
    return {level: [point for point in points if point["noise_std"] == level] for level in levels}


def build(rows: Sequence[dict[str, Any]]) -> None:
    """Write ``results/paper/cifar10.json`` from rows; those of the figure are not in it."""
    rows = [row for row in rows if row["row"] in TABLE]
    if not rows:
        raise SpecError(f"expected rows in '{FOLDER}', got none: make one with --row")
    lines = [line for row in rows for line in _lines(row)]
    scales = sorted({row["scale"] for row in rows})
    names = {f"{row['row']}@{row['scale']}": row for row in rows}
    summary: dict[str, Any] = {
        "scale": {name: row["scale"] for name, row in names.items()},
        "seeds": {name: row["seeds"] for name, row in names.items()},
        "rows": len(rows),
        "invalid_rows": [name for name, row in names.items() if not _is_valid(row)],
    }
    for scale in scales:
        summary[scale] = _of_scale([row for row in rows if row["scale"] == scale and _is_valid(row)], SCALES[scale])
    main = summary["full" if "full" in scales else scales[0]]
    summary["gain_paper_protocol_pct"] = main["gain_paper_protocol_pct"]["train"]
    summary["gain_paper_protocol_at_equal_noise_pct"] = main["gain_at_equal_noise_pct"]["train"]
    summary["gain_honest_pct"] = main["gain_honest_pct"]
    for name in ("paper_cem", "paper_cem_taught"):
        summary[f"best_over_{name}_db"] = main[f"ours_over_{name}"]["mean_db"]
        summary[f"best_over_{name}_is"] = main[f"ours_over_{name}"]["is"]
    publish("paper/cifar10", summary, lines)


def _is_valid(row: dict[str, Any]) -> bool:
    """Whether each honest attacker did better than those that ignore the release; no number is drawn from others."""
    return all(point["honest"]["beats_controls"] for point in row["points"])


def _of_scale(rows: Sequence[dict[str, Any]], scale: Scale) -> dict[str, Any]:
    """Gains over the rows of one scale; those of the paper by the same arithmetic, over the same rows."""
    honest = {row["row"]: _honest(row, "paper", "without") for row in rows}
    gains = {name: found for name, found in honest.items() if found.delta is not None}
    controlled = [row for row in rows if "paper_settled" in ROWS[row["row"]].kinds]
    by_column = {column: {row["row"]: _at_accuracy_pct(row, column) for row in rows} for column in _COLUMNS}
    compared = [row for row in rows if by_column["train"][row["row"]] is not None]
    limits = [[gain_percent_of(found.mse_db[side]) for found in gains.values() if found.mse_db] for side in (0, 1)]
    return {
        "pictures": len(unpack(rows[0]["points"][0]["error"])) if rows else 0,
        "taught_epochs": 2 + scale.settle,
        "gain_paper_protocol_pct": {column: _mean(list(found.values())) for column, found in by_column.items()},
        "gain_paper_protocol_limits_pct": _limits(compared),
        "gain_paper_protocol_rows_pct": by_column["train"],
        "gain_paper_protocol_rows": f"{len(compared)} of {len(rows)} have accuracies in common",
        "gain_at_equal_noise_pct": {column: _mean([_gain_pct(row, column) for row in rows]) for column in _COLUMNS},
        "accuracy_points_at_equal_noise": _mean([_lost(row) for row in rows]),
        "printed_gain_pct": {
            column: _mean([_printed(name, column) for name, gain in found.items() if gain is not None])
            for column, found in by_column.items()
        },
        "printed_accuracy_points": _mean(
            [TABLE[row["row"]].accuracy[1] - TABLE[row["row"]].accuracy[0] for row in compared]
        ),
        "gain_honest_pct": _mean([gain_percent(found.delta) for found in gains.values()]),
        "gain_honest_limits_pct": [_mean(side) for side in limits],
        "gain_honest_rows": f"{len(gains)} of {len(rows)} have accuracies in common",
        "gain_honest_db": {name: _told(found) for name, found in honest.items()},
        "not_converged": sum(point["honest"].get("converged") is False for row in rows for point in row["points"]),
        "ours_over_paper_cem": _beating(rows, "paper"),
        "ours_over_paper_cem_taught": _beating(controlled, "paper_settled"),
    }


_SAID_BEST = ("equal accuracy", "at least", "at most")
"""What a comparison can say, the most first."""


def _beating(rows: Sequence[dict[str, Any]], over: str) -> dict[str, Any]:
    """Ours over another kind by row, at equal accuracy or a bound; and the mean of the rows that say most."""
    found = {row["row"]: _told(_honest(row, "ours", over)) or _bound(row, over) for row in rows}
    said = {kind: [item["db"] for item in found.values() if item and item["is"] == kind] for kind in _SAID_BEST}
    best = next((kind for kind, values in said.items() if values), None)
    return {
        "mean_db": None if best is None else _mean(said[best]),
        "is": best,
        "of": f"{0 if best is None else len(said[best])} of {len(rows)} rows",
        "rows": found,
    }


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
        levels = list(by_level(row, kind).values())
        if not all(column in point["paper"] for held in levels for point in held):
            return None
        accuracy = [np.mean([point["accuracy"]["mean"] for point in held]) for held in levels]
        curves.append(TradeOff.fit(accuracy, [np.mean([p["paper"][column][key] for p in held]) for held in levels]))
    return gain_percent(delta(curves[1], curves[0], _LEAST_SHARED))


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per kind and noise level, means over the seeds, the paper's figures beside."""
    printed, lines = TABLE[row["row"]], list[dict[str, Any]]()
    kinds = sorted({point["kind"] for point in row["points"]}, reverse=True)
    found = [(kind, *level) for kind in kinds for level in reversed(by_level(row, kind).items())]
    for kind, noise_std, held in found:
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
    levels = by_level(row, kind).values()
    tables = [
        np.stack([np.stack([unpack(point[key], scale) for point in held]) for held in levels])
        for key, scale in (("correct", 1), ("error", MILLIONTHS))
    ]
    return Points(*tables)


def _mean(values: Sequence[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return float(np.mean(held)) if held else None
