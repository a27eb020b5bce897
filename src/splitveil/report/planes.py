"""Features and releases as clouds of points on two axes, before and after the mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from splitveil.errors import InputError
from splitveil.records import PROJECTIONS
from splitveil.report.runs import Run
from splitveil.report.wording import percent

__all__ = ["Plane", "Planes", "planes"]

_SIDE, _EDGE, _RADIUS = 300, 14, 3.2
_COLOURS = 8
_NEEDED = {"labels": 1, "before": 2, "after": 2, "before_shares": 1, "after_shares": 1, "same_axes": 1}
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plane:
    """One cloud: its drawing, what it says in words, and the shares of variance that its axes show."""

    title: str
    svg: Markup
    said: str


@dataclass(frozen=True, slots=True)
class Planes:
    """What one run's features look like before the mechanism and as they are released."""

    label: str
    colour: int
    planes: tuple[Plane, ...]
    classes: tuple[tuple[str, int, bool], ...]
    note: str


def planes(runs: Sequence[Run]) -> tuple[list[Planes], list[str]]:
    """Those of the runs that stored points, and notes on those whose points cannot be read."""
    drawn, notes = [], []
    for run in runs:
        try:
            found = _read(run)
        except InputError as error:
            notes.append(f"{run.label}: {error}")
            continue
        if found is not None:
            drawn.append(_planes(run, found))
    return drawn, notes


def _read(run: Run) -> dict[str, Array] | None:
    file = run.record.path / PROJECTIONS
    if not file.is_file():
        return None
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a safetensors file at '{file}', got {error}: train the run again") from error
    count = len(tensors["labels"]) if "labels" in tensors else 0
    for name, axes in _NEEDED.items():
        value = tensors.get(name)
        rows = {"labels": (count,), "before": (count, 2), "after": (count, 2), "same_axes": (1,)}.get(name, (2,))
        if value is None or value.ndim != axes or value.shape != rows or not np.isfinite(value.astype(float)).all():
            raise InputError(f"expected finite '{name}' of shape {rows} in '{file}': train the run again")
    return {name: tensors[name].astype(np.float64) for name in _NEEDED}


def _planes(run: Run, found: Mapping[str, Array]) -> Planes:
    names = run.evaluation.class_names if run.evaluation else []
    labels = found["labels"].astype(int)

    def name(label: int) -> str:
        return names[label] if 0 <= label < len(names) else str(label)

    same = bool(found["same_axes"][0])
    clouds = np.concatenate([found["before"], found["after"]]) if same else None
    drawn = []
    for key, title in (("before", "Before the mechanism"), ("after", "As released")):
        points, shares = found[key], found[f"{key}_shares"]
        apart = _between(points, labels)
        said = (
            f"The axes show {percent(float(shares[0]))} and {percent(float(shares[1]))} % of the variance; "
            f"{percent(apart)} % of what they show tells classes apart"
        )
        svg = _draw(points, points if clouds is None else clouds, [name(label) for label in labels], labels)
        drawn.append(Plane(title, svg, said))
    present = sorted(set(labels.tolist()))
    return Planes(
        label=run.label,
        colour=run.colour,
        planes=tuple(drawn),
        classes=tuple((name(label), _colour(label), _hollow(label)) for label in present),
        note="" if same else "A release here has another size than the features, and so axes of its own.",
    )


def _between(points: Array, labels: NDArray[np.int_]) -> float | None:
    """The share of the spread that lies between classes; None where there is no spread."""
    total = float(((points - points.mean(0)) ** 2).sum())
    if total <= 0:
        return None
    centres = [(points[labels == label], points.mean(0)) for label in set(labels.tolist())]
    return sum(len(cloud) * float(((cloud.mean(0) - middle) ** 2).sum()) for cloud, middle in centres) / total


def _draw(points: Array, frame: Array, names: Sequence[str], labels: NDArray[np.int_]) -> Markup:
    """Circles in a square; `frame` are the points that it must hold."""
    low, high = frame.min(0), frame.max(0)
    scale = (_SIDE - 2 * _EDGE) / max(float((high - low).max()), 1e-12)
    centre = (low + high) / 2
    marks = []
    for point, name, label in zip(points, names, labels.tolist(), strict=True):
        x, y = (point - centre) * scale
        hollow = " hollow" if _hollow(label) else ""
        marks.append(
            f'<circle class="pt c{_colour(label)}{hollow}" cx="{_SIDE / 2 + x:.1f}" cy="{_SIDE / 2 - y:.1f}" '
            f'r="{_RADIUS}" data-tip="class {escape(name)}"/>'
        )
    return Markup(f'<svg viewBox="0 0 {_SIDE} {_SIDE}" aria-hidden="true">{"".join(marks)}</svg>')


def _colour(label: int) -> int:
    return 1 + label % _COLOURS


def _hollow(label: int) -> bool:
    return (label // _COLOURS) % 2 == 1
