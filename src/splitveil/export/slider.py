"""How far the live page's slider may scale the noise before a server refuses what is released."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from splitveil.contracts import NoiseSpec
from splitveil.data.loader import Pictures
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil_edge.graphs import EdgeGraphs
from splitveil_edge.passport import Passport

__all__ = ["largest_scale"]

_PER_OCTAVE, _STEPS = 8, 16  # of the slider, above the bundle's own noise: up to 4 times
_DRAWS, _PICTURES = 4096, 256


def largest_scale(bundle: Path, passport: Passport, pictures: Pictures) -> float:
    """The largest factor of the noise on the slider, 1 to 4, at which no release leaves the range of the passport.

    Thousands of releases stay within the range even one step further on: who looks on draws more than we do here.

    Args:
        bundle: folder with the edge's graph.
        passport: its passport.
        pictures: that are released.
    """
    limits, edge = passport.release_range, EdgeGraphs(bundle, passport)
    if limits is None:
        return _scale(_STEPS)
    few = pictures.get(torch.arange(min(_PICTURES, len(pictures))))[0]

    def leaves(step: int) -> bool:
        for start in range(0, _DRAWS, len(few)):
            r = edge.release(few.numpy(), _noises(passport, len(few), start, _scale(step)))
            if not limits[0] <= float(r.min()) <= float(r.max()) <= limits[1]:
                return True
        return False

    first = bisect_left(range(_STEPS + 2), True, key=leaves)  # more noise leaves it wherever less does
    return _scale(max(first - 2, 0))


def _scale(step: int) -> float:
    return float(2.0 ** (step / _PER_OCTAVE))


def _noises(passport: Passport, n: int, start: int, scale: float) -> dict[str, NDArray[np.float32]]:
    source = SeededNoise(Rng(0).child("slider"), start)
    specs = [NoiseSpec(law.name, law.shape, law.law) for law in passport.noise]
    return {spec.name: (scale * source.draw(spec, n)).numpy() for spec in specs}
