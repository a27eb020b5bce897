"""Accuracy against attacker's error as lambda and the cut change: ours beside what the paper's figure 4 prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import publish
from benchmarks.paper.publishing import by_level
from benchmarks.paper.reference import FIGURE, TABLE
from splitveil.files import write_with

__all__ = ["CURVES", "curve_points", "publish_curves"]

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "paper_curves.png"
CURVES: dict[str, tuple[str, str]] = {
    "lambda 0": ("noise_arl", "without"),
    "lambda 2": ("noise_arl-lambda2", "paper"),
    "lambda 8": ("noise_arl-lambda8", "paper"),
    "lambda 16": ("noise_arl", "paper"),
    "lambda 32": ("noise_arl-lambda32", "paper"),
    "cut 2": ("noise_arl-cut2", "without"),
    "cut 2 + CEM": ("noise_arl-cut2", "paper"),
    "cut 4": ("noise_arl", "without"),
    "cut 4 + CEM": ("noise_arl", "paper"),
    "cut 5": ("noise_arl-cut5", "without"),
    "cut 5 + CEM": ("noise_arl-cut5", "paper"),
}
"""Row and kind of each curve."""

Track = list[tuple[float, float]]
_SHADES = ("#6b7280", "#38bdf8", "#2563eb", "#7c3aed", "#db2777")
_PANELS = ("lambda", "cut")
_COLOURS = {
    **{f"lambda {weight}": colour for weight, colour in zip((0, 2, 8, 16, 32), _SHADES, strict=True)},
    **{f"cut {cut}": colour for cut, colour in zip((2, 4, 5), _SHADES[1:4], strict=True)},
}


def curve_points(row: Mapping[str, Any], kind: str) -> list[dict[str, float]]:
    """One point per noise level, means over the seeds."""
    return [
        {
            "noise_std": noise_std,
            "accuracy": fmean(point["accuracy"]["mean"] for point in held),
            "train_mse": fmean(point["paper"]["train"]["mse"] for point in held),
            "honest_mse": fmean(point["honest"]["mse"]["mean"] for point in held),
        }
        for noise_std, held in by_level(row, kind).items()
    ]


def publish_curves(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``results/paper/curves.json`` and the picture; nothing without a row of the figure beside the table's."""
    of = {(row["row"], row["scale"]): row for row in rows}
    scales = {scale for name, scale in of if name not in TABLE}
    if not scales:
        return
    scale = "full" if "full" in scales else "reduced"
    lines = [
        {"curve": curve, "scale": scale, **point}
        for curve, (name, kind) in CURVES.items()
        if (name, scale) in of
        for point in curve_points(of[name, scale], kind)
    ]
    curves = sorted({str(line["curve"]) for line in lines})
    publish("paper/curves", {"scale": scale, "curves": curves, "of": len(CURVES)}, lines)
    figure = _figure(_tracks(lines, "honest_mse"), _tracks(lines, "train_mse"), scale)
    write_with(PICTURE, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _tracks(lines: Sequence[Mapping[str, Any]], error: str) -> dict[str, Track]:
    found: dict[str, Track] = {}
    for line in lines:
        found.setdefault(str(line["curve"]), []).append((float(line[error]), 100 * float(line["accuracy"])))
    return found


def _figure(honest: Mapping[str, Track], learned: Mapping[str, Track], scale: str) -> Figure:
    rows: tuple[tuple[str, Mapping[str, Track]], ...] = (
        (f"measured, {scale} scale, honest attacker", honest),
        (f"measured, {scale} scale, the paper's attacker", learned),
        ("printed in the paper, its attacker", {curve: list(points) for curve, points in FIGURE.items()}),
    )
    figure = Figure(figsize=(9.0, 9.9), layout="constrained")
    axes = figure.subplots(len(rows), len(_PANELS))
    for line, (said, tracks) in zip(axes, rows, strict=True):
        for panel, axis in zip(_PANELS, line, strict=True):
            _draw(axis, {name: tracks[name] for name in CURVES if name.startswith(panel) and name in tracks})
            axis.set_title(f"{panel}: {said}", fontsize=9)
    return figure


def _draw(axis: Axes, tracks: Mapping[str, Track]) -> None:
    for name, track in tracks.items():
        base, penalised = name.removesuffix(" + CEM"), name.endswith("+ CEM")
        axis.plot(
            *zip(*sorted(track), strict=True),
            color=_COLOURS[base],
            linestyle="--" if name.startswith("cut") and not penalised else "-",
            marker="o",
            markersize=4,
            label=name,
        )
    axis.set_xlabel("attacker's mean squared error", fontsize=8)
    axis.set_ylabel("accuracy, %", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(visible=True, color="#e5e7eb", linewidth=0.7)
    axis.legend(fontsize=7, frameon=False, handlelength=3.5)
