"""The page of a plan: what each place to cut costs and gives, and which no other place beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from splitveil import __version__
from splitveil.experiments.compare.record import Interval, PointRecord
from splitveil.experiments.planning.record import CutRecord, PlanRecord
from splitveil.report.build import write_plain_page
from splitveil.report.plots import Point, scatter_plot
from splitveil.report.tables import Cell
from splitveil.report.wording import DASH, INVALID, fixed, joined, percent, scalar, size_bytes

__all__ = ["build_plan_report"]

_WORDS = {
    "accuracy": "accuracy",
    "attacker_mse": "the error of the attacker",
    "payload_bytes": "payload",
    "edge_parameters": "parameters on the device",
    "edge_multiply_adds": "multiply-adds on the device",
}
_OUTCOMES = {"pass": "passed", "fail": "FAILED", "unchecked": "unchecked"}


def build_plan_report(record: PlanRecord, out: Path) -> Path:
    """Write the page of a plan.

    Args:
        record: of the plan.
        out: the HTML file; an older report is replaced, any other file is left alone.

    Raises:
        OutputError: `out` is something else than a report of ours, or cannot be written.
    """
    trial = record.trial
    variables = {
        "title": f"Where to cut {record.model}",
        "version": __version__,
        "front": joined([cut.at for cut in record.cuts if cut.front]),
        "objectives": joined([_WORDS.get(name, name) for name in record.objectives]),
        "picture": " x ".join(map(str, record.input_shape)),
        "narrow": f"{record.bottleneck} channels cross the wire" if record.bottleneck else "features cross as they are",
        "trial": None
        if trial is None
        else {
            "defense": " ".join(
                [trial.defense.name, *(f"{key}={value}" for key, value in trial.defense.params.items())]
            ),
            "recipe": trial.recipe,
            "seeds": len(trial.seeds),
            "status": trial.status,
            "checks": [(_OUTCOMES[check.outcome], check.outcome, check.title, check.detail) for check in trial.checks],
            "failed": sorted(trial.failed.items()),
            "trade": _trade(record),
        },
        "costs": _costs(record),
        "rows": [_row(cut) for cut in record.cuts],
        "void": any(cut.point is not None and not cut.point.beats_controls for cut in record.cuts),
        "unconverged": any(cut.point is not None and cut.point.unconverged for cut in record.cuts),
    }
    return write_plain_page(Path(out), "cuts.html.j2", variables)


def _row(cut: CutRecord) -> dict[str, Any]:
    point = cut.point
    return {
        "at": cut.at,
        "front": cut.front,
        "shape": " x ".join(map(str, cut.shape)),
        "payload": size_bytes(cut.payload_bytes),
        "parameters": scalar(cut.edge_parameters),
        "multiply_adds": scalar(cut.edge_multiply_adds),
        "cloud": percent(cut.cloud_share),
        "accuracy": _cell(point.accuracy, 100, 1) if point else Cell(DASH),
        "mse": _error(point, _cell(point.mse, 1, 4)) if point else Cell(DASH),
        "psnr_db": _error(point, Cell(fixed(point.psnr_db, 1) + ("†" if point.unconverged else "")))
        if point
        else Cell(DASH),
    }


def _error(point: PointRecord, cell: Cell) -> Cell:
    """The cell of an attacker's error where it beats its controls."""
    return cell if point.beats_controls else Cell(INVALID, "", "invalid")


def _cell(value: Interval, scale: float, digits: int) -> Cell:
    low, high = (fixed(scale * end, digits) for end in (value.low, value.high))
    return Cell(fixed(scale * value.mean, digits), f"{low} to {high}")


def _costs(record: PlanRecord) -> Markup:
    """Payload against multiply-adds; what costs nothing is drawn at one multiply-add, for the scale has no zero."""
    points = [_dot(cut, float(max(cut.edge_multiply_adds, 1)), cut.payload_bytes / 1024) for cut in record.cuts]
    return scatter_plot(
        points,
        x_label="multiply-adds on the device",
        y_label="payload, KiB",
        key="costs",
        x_scale="log",
        said="Payload against multiply-adds on the device by cut; the table below has the numbers.",
    )


def _trade(record: PlanRecord) -> Markup:
    """Accuracy against the attacker's error."""
    tried = [(cut, cut.point) for cut in record.cuts if cut.point is not None and cut.point.beats_controls]
    if not tried:
        return Markup()
    return scatter_plot(
        [_tried(cut, point) for cut, point in tried],
        x_label="attacker MSE",
        y_label="accuracy, %",
        key="trade",
        x_scale="log",
        said="Accuracy against the error of the attacker by cut; the table below has the numbers.",
    )


def _tried(cut: CutRecord, point: PointRecord) -> Point:
    x, y = (point.mse.low, point.mse.high), (100 * point.accuracy.low, 100 * point.accuracy.high)
    told = [
        cut.at,
        f"accuracy {percent(point.accuracy.mean)} %",
        f"MSE {fixed(point.mse.mean, 4)}",
        f"PSNR {fixed(point.psnr_db, 1)} dB",
    ]
    tip = "\n".join([*told, *_price(cut)])
    return Point(cut.at, 1, point.mse.mean, 100 * point.accuracy.mean, x, y, hollow=not cut.front, tip=tip)


def _dot(cut: CutRecord, x: float, y: float) -> Point:
    tip = "\n".join([cut.at, *_price(cut)])
    return Point(cut.at if cut.front else "", 1, x, y, (x, x), (y, y), hollow=not cut.front, tip=tip)


def _price(cut: CutRecord) -> list[str]:
    """What a cut costs, in lines."""
    return [
        f"payload {size_bytes(cut.payload_bytes)}",
        f"{scalar(cut.edge_parameters)} parameters on the device",
        f"{scalar(cut.edge_multiply_adds)} multiply-adds on the device",
    ]
