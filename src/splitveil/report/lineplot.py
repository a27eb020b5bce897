"""Curves over epochs as inline SVG: a page has dozens of them, so no plotting library lays them out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from splitveil.report.hover import Stops, Track, chart, tracks_layer
from splitveil.report.wording import scalar

__all__ = ["DASHES", "Line", "line_plot"]

_WIDTH, _HEIGHT = 352.0, 180.0
_TOP, _RIGHT, _BOTTOM = 8.0, 10.0, 34.0
_LETTER = 5.8  # width of a letter of a tick, about
_TICKS, _EPOCHS = 5, 7
_MOST_STOPS = 60  # of the cursor; more would weigh more than they tell
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1, 1.6), (6, 2, 1, 2), (8, 3))
"""Dash patterns in line widths; the legend on the page draws the same."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve over epochs; NaN leaves a gap. `dash` is an index of `DASHES`, 0 for a solid line."""

    colour: int
    values: tuple[float, ...]
    dash: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Frame:
    """From epochs and values to places on the drawing, and the ticks of both axes."""

    left: float
    epochs: tuple[int, int]
    values: tuple[float, float]
    ticks: tuple[float, ...]
    marks: tuple[int, ...]

    @classmethod
    def around(cls, lines: Sequence[Line], first: int) -> _Frame:
        longest = max((len(line.values) for line in lines), default=0)
        known = [value for line in lines for value in line.values if math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=1.0)
        room = 0.05 * (high - low) or 0.05 * max(abs(high), 1e-12)
        low, high = low - room, high + room
        ticks = tuple(t for t in map(float, MaxNLocator(nbins=_TICKS).tick_values(low, high)) if low <= t <= high)
        last = first + max(longest - 1, 0)
        marks = MaxNLocator(nbins=_EPOCHS, integer=True).tick_values(first, last) if last > first else [first]
        width = max((len(_tick(tick)) for tick in ticks), default=1)
        whole = tuple(round(mark) for mark in marks if first <= mark <= last and mark == round(mark))
        return cls(14.0 + _LETTER * width, (first, last), (low, high), ticks, whole)

    def x(self, epoch: float) -> float:
        first, last = self.epochs
        share = (epoch - first) / (last - first) if last > first else 0.5
        return self.left + share * (_WIDTH - _RIGHT - self.left)

    def y(self, value: float) -> float:
        low, high = self.values
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM) if math.isfinite(value) else math.nan


def line_plot(lines: Sequence[Line], *, y_label: str = "", first_epoch: int = 1, said: str = "") -> Markup:
    """Curves over epochs, with a cursor that says their values.

    Args:
        lines: what to draw.
        y_label: of the values; empty where the plot's title says it.
        first_epoch: number of the first one.
        said: the plot in words; up to its colon, what it shows.
    """
    frame = _Frame.around(lines, first_epoch)
    parts = [*_axes(frame, y_label), *(_curve(line, frame) for line in lines)]
    drawing = Markup(f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" aria-hidden="true">{"".join(parts)}</svg>')
    return chart(drawing, _cursor(lines, frame, said.partition(":")[0]), said)


def _tick(value: float) -> str:
    return scalar(round(value, 12) + 0.0)


def _axes(frame: _Frame, y_label: str) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = ['<g class="grid">']
    parts += [f'<path d="M{frame.left:.1f} {frame.y(t):.1f}H{right:g}"/>' for t in frame.ticks]
    parts.append(f'<path d="M{frame.left:.1f} {bottom:g}H{right:g}"/></g><g class="ticks">')
    parts += [
        f'<text x="{frame.left - 6:.1f}" y="{frame.y(t) + 3.5:.1f}" text-anchor="end">{_tick(t)}</text>'
        for t in frame.ticks
    ]
    parts += [f'<text x="{frame.x(m):.1f}" y="{bottom + 14:g}" text-anchor="middle">{m}</text>' for m in frame.marks]
    middle = (frame.left + right) / 2
    parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 4:g}" text-anchor="middle">epoch</text>')
    if y_label:
        parts.append(f'<text x="{frame.left:.1f}" y="{_TOP - 1:g}" text-anchor="end">{escape(y_label)}</text>')
    return [*parts, "</g>"]


def _curve(line: Line, frame: _Frame) -> str:
    """A path that lifts the pen at gaps; a lone epoch is a dot."""
    steps, pen = [], "M"
    for number, value in enumerate(line.values):
        if math.isfinite(value):
            steps.append(f"{pen}{frame.x(frame.epochs[0] + number):.1f} {frame.y(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    dash = " ".join(f"{1.6 * length:g}" for length in DASHES[line.dash % len(DASHES)])
    pattern = f' stroke-dasharray="{dash}"' if dash else ""
    if len(steps) == 1:
        x, y = steps[0][1:].split()
        return f'<circle class="c{line.colour}" cx="{x}" cy="{y}" r="3" fill="currentColor"/>'
    return f'<path class="curve c{line.colour}" d="{"".join(steps)}"{pattern}/>'


def _cursor(lines: Sequence[Line], frame: _Frame, label: str) -> Markup:
    longest = max((len(line.values) for line in lines), default=0)
    numbers = sorted({round(stop) for stop in np.linspace(0, max(longest - 1, 0), min(longest, _MOST_STOPS))})
    epochs = tuple(frame.epochs[0] + number for number in numbers)
    tracks = []
    for line in lines:
        values = tuple(line.values[number] if number < len(line.values) else math.nan for number in numbers)
        tracks.append(Track(line.name, line.colour, values, tuple(frame.y(value) for value in values)))
    stops = Stops("epoch", epochs, tuple(frame.x(epoch) for epoch in epochs), (_TOP, _HEIGHT - _BOTTOM))
    return tracks_layer((_WIDTH, _HEIGHT), stops, tracks, label)
