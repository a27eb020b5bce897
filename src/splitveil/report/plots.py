"""Plots as inline SVG that takes its colours and letters from the page, so that it is right in light and in dark.

Matplotlib draws with stand-in colours; each is then replaced by a variable of the page's style. Text that comes from a
record never enters matplotlib: points are named by stand-ins, and the page writes the legend.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from splitveil.report.hover import chart, points_layer

__all__ = ["Curve", "Point", "scatter_plot"]

_INK, _MUTED, _GRID = "#010101", "#010102", "#010103"
_SERIES = "#0201{:02x}"
_NAME_LENGTH = 30
_LETTER_PT = 6.0  # width of a letter of a name, about
_NEAR_X, _NEAR_Y, _LINE = 0.01, 0.03, 0.05  # of a point, and the height of a name, as shares of the plot
_MARKERS = "osD^vPX*"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "font.family": "sans-serif",
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A point with its error bars; `colour` is the number of a colour on the page, a hollow one is set apart.

    `tip` is what it says when it is pointed at, in lines; its label, if empty.
    """

    label: str
    colour: int
    x: float
    y: float
    x_interval: tuple[float, float]
    y_interval: tuple[float, float]
    hollow: bool = False
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through a scatter plot."""

    colour: int
    x: tuple[float, ...]
    y: tuple[float, ...]


def scatter_plot(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    key: str,
    curves: Sequence[Curve] = (),
    band: tuple[float, float] | None = None,
    x_scale: Literal["linear", "log"] = "linear",
    size: tuple[float, float] = (5.6, 3.7),
    said: str = "",
) -> Markup:
    """Points with error bars and their names beside them; a name that is empty is not written.

    Args:
        key: unique on the page; it keeps the identifiers of two plots apart.
        curves: drawn below the points.
        band: a range of y that is set off.
        x_scale: on ``log``, equal distances are equal ratios, and so equal decibels.
        size: width and height, inches.
        said: the plot in words.
    """
    figure, axes = _figure(*size)
    if x_scale == "log":
        _set_log(axes, points)
    if band is not None:
        axes.axhspan(*band, color=_GRID, alpha=0.35, linewidth=0)
    for curve in curves:
        axes.plot(curve.x, curve.y, color=_SERIES.format(curve.colour), linewidth=1.8, alpha=0.75)
    by_colour = bool(curves) or len({point.colour for point in points}) == 1
    for number, point in enumerate(points):
        colour = _SERIES.format(point.colour)
        axes.errorbar(
            point.x,
            point.y,
            xerr=_arms(point.x, point.x_interval),
            yerr=_arms(point.y, point.y_interval),
            fmt=_MARKERS[(point.colour if by_colour else number) % len(_MARKERS)],
            color=colour,
            markersize=7,
            markeredgewidth=1.4 if point.hollow else 0,
            fillstyle="none" if point.hollow else "full",
            elinewidth=1.2,
            capsize=2.5,
        )
    axes.margins(x=0.16, y=0.16)
    _name_points(axes, points)
    axes.set_xlabel(x_label, color=_MUTED)
    axes.set_ylabel(y_label, color=_MUTED)
    axes.grid(True, color=_GRID, linewidth=0.7)
    names = {_stand_in(number): _short(point.label) for number, point in enumerate(points)}
    drawing = _to_svg(figure, key, names)
    tips = [(point.tip or point.label, point.colour) for point in points]
    size, places = _places(figure, axes, points)
    return chart(drawing, points_layer(size, places, tips), said)


def _places(
    figure: Figure, axes: Any, points: Sequence[Point]
) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """The size of a figure that was drawn, and where its points lie on it, from the upper left."""
    width, height = (72.0 * float(side) for side in figure.get_size_inches())
    pixels = axes.transData.transform([(point.x, point.y) for point in points])
    shares = figure.transFigure.inverted().transform(pixels)
    return (width, height), [(float(x) * width, (1.0 - float(y)) * height) for x, y in shares]


def _set_log(axes: Any, points: Sequence[Point]) -> None:
    """Ticks at round numbers, more of them where the points span less than a decade."""
    axes.set_xscale("log")
    span = max(point.x for point in points) / min(point.x for point in points)
    steps = (1.0, 2.0, 5.0) if span > 10 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _arms(centre: float, interval: tuple[float, float]) -> NDArray[np.float64]:
    return np.array([[max(0.0, centre - interval[0])], [max(0.0, interval[1] - centre)]])


def _stand_in(number: int) -> str:
    return f"point-{number}-name"


def _name_points(axes: Any, points: Sequence[Point]) -> None:
    """Write names above and right of points, or below and left where that is taken or leaves the plot.

    A falling curve through a point leaves these two places free; where both are taken, a name moves up.
    """
    axes.autoscale_view()  # it is put off until drawing
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [tuple(to_axes.transform((point.x, point.y))) for point in points]
    taken = [_Box(x - _NEAR_X, x + _NEAR_X, y - _NEAR_Y, y + _NEAR_Y) for x, y in places]
    letter = _LETTER_PT / (72 * axes.get_figure().get_figwidth())
    for number in sorted((item for item, point in enumerate(points) if point.label), key=lambda item: places[item][1]):
        (x, y), length = places[number], letter * len(_short(points[number].label))
        right = _Box(x + _NEAR_X, x + _NEAR_X + length, y + _NEAR_Y, y + _NEAR_Y + _LINE)
        left = _Box(x - _NEAR_X - length, x - _NEAR_X, y - _NEAR_Y - _LINE, y - _NEAR_Y)
        inside = [box for box in (right, left) if box.left >= 0 and box.right <= 1] or [right]
        box = next((box for box in inside if not box.meets(taken)), inside[0])
        while box.meets(taken):
            box = replace(box, bottom=box.bottom + 0.01, top=box.top + 0.01)
        taken.append(box)
        to_left = box.right < x
        axes.annotate(
            _stand_in(number),
            (box.right if to_left else box.left, box.bottom),
            xycoords="axes fraction",
            ha="right" if to_left else "left",
            va="bottom",
            color=_SERIES.format(points[number].colour),
            parse_math=False,
        )


@dataclass(frozen=True, slots=True)
class _Box:
    """A place on the plot, as shares of its width and height."""

    left: float
    right: float
    bottom: float
    top: float

    def meets(self, others: Sequence[_Box]) -> bool:
        return any(
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
            for other in others
        )


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GRID)
    axes.tick_params(colors=_MUTED, length=0, pad=5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    return figure, axes


def _to_svg(figure: Figure, key: str, names: dict[str, str]) -> Markup:
    buffer = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_at_home(buffer.getvalue(), key, names))  # the only text in it is ours or was escaped


def _at_home(svg: str, key: str, names: dict[str, str]) -> str:
    """Leave only the drawing: no prolog, no metadata, no names of other hosts; colours and letters of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = re.sub(r'\bhref="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"#0201([0-9a-f]{2})", lambda match: f"var(--c{int(match[1], 16)})", svg)
    for stand_in, variable in ((_INK, "ink"), (_MUTED, "muted"), (_GRID, "line")):
        svg = svg.replace(stand_in, f"var(--{variable})")
    for stand_in, name in names.items():
        svg = svg.replace(f">{stand_in}<", f">{escape(name)}<")
    # the page gives the plot its name and its size
    return re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg, count=1)
