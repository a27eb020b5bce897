"""What lies over a plot and answers to mouse, finger and keyboard: places of points, and values along curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from splitveil.report.wording import scalar

__all__ = ["Stops", "Track", "chart", "points_layer", "tracks_layer"]

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Track:
    """A curve: its name, the colour of the page, and at each stop its value and its height; NaN where it has none."""

    name: str
    colour: int
    values: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stops:
    """Where a cursor can stand.

    Args:
        unit: what a step is, such as an epoch.
        steps: their numbers.
        x: their places.
        band: the upper and the lower edge of the plot's inside.
    """

    unit: str
    steps: tuple[int, ...]
    x: tuple[float, ...]
    band: tuple[float, float]


def chart(drawing: Markup, layer: Markup, said: str) -> Markup:
    """A drawing with its words, and what answers to the mouse above it."""
    return Markup('<div class="chart"><div role="img" aria-label="{}">{}</div>{}</div>').format(said, drawing, layer)


def points_layer(size: Place, places: Sequence[Place], tips: Sequence[tuple[str, int]]) -> Markup:
    """Circles that can be pointed at and stepped through.

    Args:
        size: of the drawing.
        places: of points on it, from the upper left.
        tips: what each says, in lines, and its colour.
    """
    marks = [
        f'<circle class="hit c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="9" role="img" '
        f'tabindex="{-1 if number else 0}" aria-label="{escape(tip.replace(chr(10), ", "))}" data-tip="{escape(tip)}"/>'
        for number, ((x, y), (tip, colour)) in enumerate(zip(places, tips, strict=True))
    ]
    box = f'<svg class="hits" viewBox="0 0 {size[0]:g} {size[1]:g}" role="group" aria-label="Points; arrow keys step">'
    return Markup(f"{box}{''.join(marks)}</svg>")  # every text in it was escaped


def tracks_layer(size: Place, stops: Stops, tracks: Sequence[Track], label: str) -> Markup:
    """A cursor that moves along curves over steps and says all values at one of them; nothing for a single step."""
    if len(stops.steps) < 2:
        return Markup()
    data = {
        "unit": stops.unit,
        "step": stops.steps,
        "x": [round(place, 1) for place in stops.x],
        "band": [round(edge, 1) for edge in stops.band],
        "lines": [
            {
                "name": track.name,
                "colour": track.colour,
                "y": [round(y, 1) if math.isfinite(y) else None for y in track.y],
                "v": [scalar(value) if math.isfinite(value) else None for value in track.values],
            }
            for track in tracks
        ],
    }
    first, last = stops.steps[0], stops.steps[-1]
    return Markup(
        f'<div class="scrub" role="slider" tabindex="0" aria-label="{escape(label)}, by {escape(stops.unit)}" '
        f'aria-valuemin="{first}" aria-valuemax="{last}" aria-valuenow="{last}" '
        f'data-tracks="{escape(json.dumps(data, separators=(",", ":")))}">'
        f'<svg viewBox="0 0 {size[0]:g} {size[1]:g}" aria-hidden="true"></svg></div>'
    )
