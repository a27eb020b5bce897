"""What a file says about its releases, in texts beside the tensors: noises, how to read one, how several add up."""

from __future__ import annotations

import json
import math
from typing import Any

from splitveil.contracts import FeatureSpec, NoiseSpec
from splitveil.errors import ContractError, InputError

__all__ = ["COMBINE_KEY", "NOISE_KEY", "RELEASE_KEY", "parse_noises", "parse_release"]

NOISE_KEY = "splitveil.noise"
"""Key under which the noise laws stand, as a JSON list of ``{name, shape, law}``."""

RELEASE_KEY = "splitveil.release"
"""Key under which the spec of the release stands, as the JSON of a `FeatureSpec`."""

COMBINE_KEY = "splitveil.combine"
"""Key under which stands what several releases of one input amount to, a name of `COMBINATIONS`."""


def parse_release(text: str | None, shape: tuple[int, ...], source: str, cure: str) -> FeatureSpec:
    """The spec that a file states for releases of this shape; what follows from the shape where it states none.

    Args:
        text: under `RELEASE_KEY`.
        shape: of one release, as found.
        source: the file, for the message.
        cure: what to do about it.

    Raises:
        InputError: the text is no spec, or that of another shape.

    Example:
        >>> parse_release(None, (8, 4, 4), "edge.onnx", "export the file again").kind
        'map'
    """
    try:
        if text is None:
            return FeatureSpec.of(shape)
        spec = FeatureSpec.from_json(json.loads(text))
        if spec.shape != shape:
            raise ValueError(f"shape {spec.shape} where the releases are {shape}")
        if spec.range is not None and not _is_range(spec.range):
            raise ValueError(f"range {spec.range}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ContractError) as error:
        raise InputError(
            f"expected the spec of the release under '{RELEASE_KEY}' in '{source}', got {error}: {cure}"
        ) from error
    return spec


def _is_range(values: tuple[Any, ...]) -> bool:
    numbers = [value for value in values if type(value) in (int, float) and math.isfinite(value)]
    return len(values) == len(numbers) == 2 and numbers[0] <= numbers[1]


def parse_noises(text: str, source: str, cure: str) -> tuple[NoiseSpec, ...]:
    """The noises that a file states under `NOISE_KEY`.

    Raises:
        InputError: the text is no list of them.
    """
    try:
        return tuple(_noise(item) for item in json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"expected a JSON list of {{name, shape, law}} under '{NOISE_KEY}' in '{source}', got {text!r}: {cure}"
        ) from error


def _noise(item: Any) -> NoiseSpec:
    name, shape, law = item["name"], tuple(item["shape"]), item["law"]
    if not isinstance(name, str) or not all(type(size) is int for size in shape):
        raise ValueError("not a name with sizes")
    if law not in ("standard_normal", "uniform"):
        raise ValueError("not a law")
    return NoiseSpec(name, shape, law)
