"""The page of a comparison: its curves and deltas, then the runs that stand nearest to one accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from splitveil.experiments.compare.api import RUNS
from splitveil.experiments.compare.record import ComparisonRecord, DeltaRecord, Interval, PointRecord, curve_of
from splitveil.metrics.tradeoff import TradeOff
from splitveil.records import RunRecord
from splitveil.report.build import write_page
from splitveil.report.headline import Headline
from splitveil.report.page import context
from splitveil.report.plots import Curve, Point, scatter_plot
from splitveil.report.runs import UNDEFENDED, load_runs
from splitveil.report.tables import Cell
from splitveil.report.wording import DASH, INVALID, fixed, joined, percent

__all__ = ["build_comparison_report", "matched_points"]

_STEPS = 60
_NEAR = 0.01
_DAGGER = "\N{DAGGER}"
_VOID = Cell(INVALID, "", "invalid")
_OUTCOMES = {"pass": "passed", "fail": "FAILED", "unchecked": "unchecked"}


def build_comparison_report(
    record: ComparisonRecord, folder: Path, out: Path, *, title: str = "What the same accuracy costs"
) -> Path:
    """Write the report of a comparison.

    The runs that are shown in pictures are those of one seed at matched accuracy, see `matched_points`.

    Args:
        record: of the comparison.
        folder: of the comparison.
        out: the HTML file; an older report is replaced, any other file is left alone.
        title: of the page.

    Raises:
        OutputError: `out` is something else than a report of ours, or cannot be written.
    """
    points = matched_points(record)
    seeds = set.intersection(*({*point.runs} for point in points))
    folders = [point.runs[min(seeds or point.runs)] for point in points]
    colours = _colours(record)
    runs = load_runs([RunRecord(Path(folder) / RUNS / name) for name in folders])
    runs = [replace(run, colour=colours[curve_of(run.spec.defense)]) for run in runs]
    section = _section(record, points, colours)
    variables = {**context(runs, title), "headline": _headline(record), "scatter": None, "comparison": section}
    return write_page(Path(out), runs, variables, comparison=record.model_dump(mode="json"))


def _headline(record: ComparisonRecord) -> Headline | None:
    """The first gap of the page; the sentence is written by the template, which names all of them."""
    if not record.deltas:
        return None
    delta = record.deltas[0]
    meaning = f"attacker error of {delta.other} over {delta.reference} at equal accuracy"
    if record.status == "invalid":
        return Headline(INVALID, "no score", "A control of the comparison failed.", "invalid")
    if delta.mse_db is None:
        return Headline(DASH, meaning, f"They cannot be compared: {delta.verdict}.", "unsure")
    unproven = _unproven(record)
    doubt = f"; whether the attacker works is unproven, as {unproven}" if unproven else ""
    return Headline(
        f"{_signed(delta.mse_db, DASH).text} dB",
        f"{meaning}{', unproven' if unproven else ''}",
        f"{delta.other} over {delta.reference} at equal accuracy, {_between(delta.mse_db, 1, 2)} dB{doubt}.",
        "" if delta.certain and not unproven else "unsure",
    )


def _unproven(record: ComparisonRecord) -> str:
    """Why nothing shows that the attacker works; empty where something does."""
    if record.status != "unproven":
        return ""
    return record.checks[0].detail if record.checks else "no control was recorded"


def matched_points(record: ComparisonRecord) -> list[PointRecord]:
    """The undefended point, and of each defense one selected point, together as near to one accuracy as they come.

    They are matched on validation pictures, as all that is chosen is. Accuracies within a point of each other are as
    near; of such matches that of the highest accuracy. A defense that has no selected point is shown by any of its own.
    """
    of_curve = [[point for point in record.points if point.curve == name] for name in _names(record)]
    curves = [[point for point in points if point.selected] or points for points in of_curve]
    undefended = [points for points in curves if points[0].defense.name == UNDEFENDED]
    defended = [points for points in curves if points[0].defense.name != UNDEFENDED]

    def match(accuracy: float) -> list[PointRecord]:
        return [min(points, key=lambda point: abs(point.val_accuracy - accuracy)) for points in defended]

    def spread(accuracy: float) -> float:
        gaps = [round(abs(point.val_accuracy - accuracy), 6) for point in match(accuracy)]
        return max([_NEAR, *gaps])

    targets = sorted({point.val_accuracy for points in defended for point in points}, reverse=True)
    return [points[0] for points in undefended] + match(min(targets, key=spread, default=0.0))


def _names(record: ComparisonRecord) -> list[str]:
    return list(dict.fromkeys(point.curve for point in record.points))


def _colours(record: ComparisonRecord) -> dict[str, int]:
    """Colour 0 for the undefended, then in order."""
    defended = [name for name in _names(record) if name != UNDEFENDED]
    return {UNDEFENDED: 0, **{name: 1 + number % 8 for number, name in enumerate(defended)}}


def _section(record: ComparisonRecord, shown: Sequence[PointRecord], colours: Mapping[str, int]) -> dict[str, Any]:
    accuracies = [f"{percent(point.accuracy.mean)} % under {point.label}" for point in shown]
    levels = {delta.level for delta in record.deltas} or {0.95}
    return {
        "seeds": len(record.seeds),
        "level": f"{fixed(100 * max(levels), 0)} %",
        "status": record.status,
        "unproven": _unproven(record),
        "converged": _share(record.converged_share),
        "unconverged": any(point.unconverged for point in record.points),
        "void": not all(point.beats_controls for point in record.points),
        "svg": _plot(record, colours),
        "legend": [(_legend(record, name), colours[name]) for name in _names(record)],
        "shared": _shared_range(record) is not None,
        "deltas": [_delta(delta, colours, record.status) for delta in record.deltas],
        "points": [_point(point, colours, len(record.seeds)) for point in record.points],
        "checks": [
            {"word": _OUTCOMES[check.outcome], "outcome": check.outcome, "title": check.title, "detail": check.detail}
            for check in record.checks
        ],
        "failed": sorted(record.failed.items()),
        "matched": f"Points nearest to one accuracy on validation pictures; on test pictures {joined(accuracies)}.",
    }


def _plot(record: ComparisonRecord, colours: Mapping[str, int]) -> Any:
    drawn = [point for point in record.points if point.beats_controls]
    if not drawn:
        return ""
    points = [
        Point(
            label=_place_name(record, point) + _mark(point.unconverged),
            colour=colours[point.curve],
            x=point.mse.mean,
            y=100 * point.accuracy.mean,
            x_interval=(point.mse.low, point.mse.high),
            y_interval=(100 * point.accuracy.low, 100 * point.accuracy.high),
            hollow=not point.selected,
            tip=_tip(point),
        )
        for point in drawn
    ]
    curves = []
    for name, colour in colours.items():
        chosen = [point for point in drawn if point.curve == name and point.selected]
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
        band=_shared_range(record),
        x_scale="log",
        size=(10.4, 5.0),
        said="Trade-off curves. " + "; ".join(_tip(point).replace("\n", ", ") for point in drawn),
    )


def _tip(point: PointRecord) -> str:
    accuracy = f"accuracy {percent(point.accuracy.mean)} % ({_between(point.accuracy, 100, 1)})"
    error = f"MSE {fixed(point.mse.mean, 4)} ({_between(point.mse, 1, 4)})"
    return "\n".join([point.label, accuracy, error, f"PSNR {fixed(point.psnr_db, 1)} dB"])


def _shared_range(record: ComparisonRecord) -> tuple[float, float] | None:
    """The accuracies in percent that the one delta of the page is the mean over."""
    ranges = [delta.accuracy_range for delta in record.deltas]
    if len(ranges) != 1 or ranges[0] is None:
        return None
    return 100 * ranges[0][0], 100 * ranges[0][1]


def _varied(record: ComparisonRecord, name: str) -> list[str]:
    """The parameters in which the points of a defense differ."""
    params = [point.defense.params for point in record.points if point.curve == name]
    keys = dict.fromkeys(key for item in params for key in item)
    return [key for key in keys if any(item.get(key) != params[0].get(key) for item in params)]


def _place_name(record: ComparisonRecord, point: PointRecord) -> str:
    """What stands beside a point: the values that tell it from others of its curve, or the name of its defense."""
    varied = _varied(record, point.curve)
    return ", ".join(f"{point.defense.params.get(key, DASH)}" for key in varied) or point.defense.name


def _legend(record: ComparisonRecord, name: str) -> str:
    varied = _varied(record, name)
    return f"{name}, by {joined(varied)}" if varied else name


def _mark(unconverged: bool) -> str:
    return f" {_DAGGER}" if unconverged else ""


def _share(value: float | None) -> str:
    return DASH if value is None else f"{fixed(100 * value, 0)} %"


def _convergence(point: PointRecord | DeltaRecord) -> Cell:
    text = _share(point.converged_share) + _mark(point.unconverged)
    return Cell(text, "", "unsure" if point.unconverged else "")


def _point(point: PointRecord, colours: Mapping[str, int], seeds: int) -> dict[str, Any]:
    return {
        "label": point.label if len(point.runs) == seeds else f"{point.label} ({len(point.runs)} of {seeds} seeds)",
        "colour": colours[point.curve],
        "accuracy": Cell(percent(point.accuracy.mean), _between(point.accuracy, 100, 1)),
        "mse": Cell(fixed(point.mse.mean, 4), _between(point.mse, 1, 4)) if point.beats_controls else _VOID,
        "psnr_db": Cell(fixed(point.psnr_db, 1)) if point.beats_controls else _VOID,
        "converged": _convergence(point),
        "selected": point.selected,
    }


def _delta(delta: DeltaRecord, colours: Mapping[str, int], status: str) -> dict[str, Any]:
    invalid = _VOID if status == "invalid" else None
    shared = delta.accuracy_range
    return {
        "other": delta.other,
        "colour": colours[delta.other],
        "reference": delta.reference,
        "decibels": fixed(abs(delta.mse_db.mean), 1) if delta.mse_db else "",
        "direction": "more" if delta.mse_db and delta.mse_db.mean >= 0 else "less",
        "verdict": delta.verdict,
        "certain": delta.certain,
        "converged": _convergence(delta),
        "mse_db": invalid or _signed(delta.mse_db, delta.verdict),
        "accuracy_points": invalid or _signed(delta.accuracy_points, DASH),
        "accuracy_range": f"{percent(shared[0])} to {percent(shared[1])}" if shared else DASH,
        "overlapping": Cell(_share(delta.overlapping_share), "", "unsure" if delta.rarely_shared else ""),
    }


def _signed(value: Interval | None, otherwise: str) -> Cell:
    if value is None:
        return Cell(otherwise)
    return Cell(f"{'+' if value.mean >= 0 else ''}{fixed(value.mean, 2)}", _between(value, 1, 2))


def _between(value: Interval, scale: float, digits: int) -> str:
    return f"{fixed(scale * value.low, digits)} to {fixed(scale * value.high, digits)}"
