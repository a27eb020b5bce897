"""A spec of features says what can be read, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from splitveil.contracts import FeatureSpec
from splitveil.errors import ContractError


@pytest.mark.parametrize(
    ("shape", "prefix", "grid"),
    [((8, 4, 4), 0, (4, 4)), ((17, 12), 1, (4, 4)), ((16, 12), 0, (4, 4)), ((18, 12), 1, None), ((64,), 0, None)],
)
def test_usual_readings_survive_json(shape: tuple[int, ...], prefix: int, grid: tuple[int, int] | None) -> None:
    spec = FeatureSpec.of(shape, prefix_tokens=prefix, range=(0.0, 1.0))
    assert spec.grid == grid
    assert FeatureSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (8, 4), "kind": "map", "channel_axis": 0},
        {"shape": (8, 4, 0), "kind": "map", "channel_axis": 0},
        {"shape": (8, 4, 4.0), "kind": "map", "channel_axis": 0},
        {"shape": (8, 4, 4), "kind": "cube", "channel_axis": 0},
        {"shape": (8, 4, 4), "kind": "map", "channel_axis": 3},
        {"shape": (8, 4, 4), "kind": "map", "channel_axis": -1},
        {"shape": (8, 4, 4), "kind": "map", "channel_axis": 0, "grid": (4, 5)},
        {"shape": (8, 4, 4), "kind": "map", "channel_axis": 0, "prefix_tokens": 1},
        {"shape": (17, 12), "kind": "tokens", "channel_axis": 1, "prefix_tokens": 17},
        {"shape": (17, 12), "kind": "tokens", "channel_axis": 1, "grid": (4, 4)},
        {"shape": (64,), "kind": "vector", "channel_axis": 1},
    ],
)
def test_what_cannot_be_read_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="expected"):
        FeatureSpec(**given)
