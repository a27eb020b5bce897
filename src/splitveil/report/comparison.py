"""The page of a comparison: its curves and deltas, then the runs that stand nearest to one accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splitveil.experiments.compare.api import RUNS
from splitveil.experiments.compare.record import ComparisonRecord, DeltaRecord, Interval, PointRecord
from splitveil.metrics.tradeoff import TradeOff
from splitveil.records import RunRecord
from splitveil.report.build import write_page
from splitveil.report.page import context
from splitveil.report.plots import Curve, Point, scatter_plot
from splitveil.report.runs import UNDEFENDED, load_runs
from splitveil.report.tables import Cell
from splitveil.report.wording import DASH, INVALID, fixed, joined, percent

__all__ = ["build_comparison_report", "matched_points"]

_STEPS = 60
_OUTCOMES = {"pass": "passed", "fail": "FAILED", "unchecked": "unchecked"}


def build_comparison_report(
    record: ComparisonRecord, folder: Path, out: Path, *, title: str = "What the same accuracy costs"
) -> Path:
    """Write the report of a comparison.

    The runs that are shown in pictures are those of the first seed at matched accuracy, see `matched_points`.

    Args:
        record: of the comparison.
        folder: of the comparison.
        out: the HTML file; an older report is replaced, any other file is left alone.
        title: of the page.

    Raises:
        OutputError: `out` is something else than a report of ours, or cannot be written.
    """
    points = matched_points(record)
    runs = [RunRecord(Path(folder) / RUNS / point.runs[min(point.runs)]) for point in points]
    variables = context(load_runs(runs), title)
    colours = _colours(record)
    return write_page(Path(out), {**variables, "scatter": None, "comparison": _section(record, points, colours)})


def matched_points(record: ComparisonRecord) -> list[PointRecord]:
    """The undefended point, and of each defense the selected point nearest to the middle of the shared accuracies.

    Without shared accuracies, the selected point with the highest accuracy.
    """
    ranges = [delta.accuracy_range for delta in record.deltas if delta.accuracy_range]
    target = float(np.mean([np.mean(pair) for pair in ranges])) if ranges else 1.0
    found = []
    for name in _names(record):
        candidates = [point for point in record.points if point.defense.name == name and point.selected]
        found.append(min(candidates, key=lambda point: abs(point.accuracy.mean - target)))
    return found


def _names(record: ComparisonRecord) -> list[str]:
    return list(dict.fromkeys(point.defense.name for point in record.points))


def _colours(record: ComparisonRecord) -> dict[str, int]:
    """Colour 0 for the undefended, then in order."""
    defended = [name for name in _names(record) if name != UNDEFENDED]
    return {UNDEFENDED: 0, **{name: 1 + number % 8 for number, name in enumerate(defended)}}


def _section(record: ComparisonRecord, shown: Sequence[PointRecord], colours: Mapping[str, int]) -> dict[str, Any]:
    accuracies = [f"{point.label} ({percent(point.accuracy.mean)} %)" for point in shown]
    levels = {delta.level for delta in record.deltas} or {0.95}
    return {
        "seeds": len(record.seeds),
        "level": f"{fixed(100 * max(levels), 0)} %",
        "status": record.status,
        "converged": DASH if record.converged_share is None else f"{fixed(100 * record.converged_share, 0)} %",
        "svg": _plot(record, colours),
        "said": "; ".join(
            f"{point.label}: accuracy {percent(point.accuracy.mean)} %, MSE {fixed(point.mse.mean, 4)}"
            for point in record.points
        ),
        "legend": [(name, colours[name]) for name in _names(record)],
        "deltas": [_delta(delta, colours, record.status) for delta in record.deltas],
        "points": [_point(point, colours) for point in record.points],
        "checks": [
            {"word": _OUTCOMES[check.outcome], "outcome": check.outcome, "title": check.title, "detail": check.detail}
            for check in record.checks
        ],
        "failed": sorted(record.failed.items()),
        "matched": f"Below, the runs of one seed that stand nearest to one accuracy: {joined(accuracies)}.",
    }


def _plot(record: ComparisonRecord, colours: Mapping[str, int]) -> Any:
    points = [
        Point(
            label=point.label if point.defense.name == UNDEFENDED else _params(point),
            colour=colours[point.defense.name],
            x=point.mse.mean,
            y=100 * point.accuracy.mean,
            x_interval=(point.mse.low, point.mse.high),
            y_interval=(100 * point.accuracy.low, 100 * point.accuracy.high),
            hollow=not point.selected,
        )
        for point in record.points
    ]
    curves = []
    for name, colour in colours.items():
        chosen = [point for point in record.points if point.defense.name == name and point.selected]
        if len(chosen) < 2:
            continue
        curve = TradeOff.fit(
            np.array([point.accuracy.mean for point in chosen]), np.array([point.mse.mean for point in chosen])
        )
        accuracy = np.linspace(curve.accuracy_range[0], curve.accuracy_range[1], _STEPS)
        errors = 10 ** (np.asarray(curve.mse_db_at(accuracy)) / 10)
        curves.append(Curve(colour, tuple(errors.tolist()), tuple((100 * accuracy).tolist())))
    return scatter_plot(
        points,
        x_label="MSE of recovered pictures",
        y_label="accuracy, %",
        key="trade",
        curves=curves,
        size=(7.6, 4.4),
    )


def _params(point: PointRecord) -> str:
    return ", ".join(f"{value}" for value in point.defense.params.values())


def _point(point: PointRecord, colours: Mapping[str, int]) -> dict[str, Any]:
    return {
        "label": point.label,
        "colour": colours[point.defense.name],
        "accuracy": Cell(percent(point.accuracy.mean), _between(point.accuracy, 100, 1)),
        "mse": Cell(fixed(point.mse.mean, 4), _between(point.mse, 1, 4)),
        "psnr_db": fixed(point.psnr_db, 1),
        "converged": f"{fixed(100 * point.converged_share, 0)} %",
        "selected": point.selected,
    }


def _delta(delta: DeltaRecord, colours: Mapping[str, int], status: str) -> dict[str, Any]:
    invalid = Cell(INVALID, "", "invalid") if status == "invalid" else None
    shared = delta.accuracy_range
    return {
        "other": delta.other,
        "colour": colours[delta.other],
        "reference": delta.reference,
        "decibels": fixed(abs(delta.mse_db.mean), 1) if delta.mse_db else "",
        "direction": "more" if delta.mse_db and delta.mse_db.mean >= 0 else "less",
        "mse_db": invalid or _signed(delta.mse_db, "no overlap"),
        "accuracy_points": invalid or _signed(delta.accuracy_points, DASH),
        "accuracy_range": f"{percent(shared[0])} to {percent(shared[1])}" if shared else DASH,
        "overlapping": f"{fixed(100 * delta.overlapping_share, 0)} %",
    }


def _signed(value: Interval | None, otherwise: str) -> Cell:
    if value is None:
        return Cell(otherwise)
    return Cell(f"{'+' if value.mean >= 0 else ''}{fixed(value.mean, 2)}", _between(value, 1, 2))


def _between(value: Interval, scale: float, digits: int) -> str:
    return f"{fixed(scale * value.low, digits)} to {fixed(scale * value.high, digits)}"
