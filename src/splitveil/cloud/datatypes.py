"""The datatypes of the Open Inference Protocol, and one tensor of a model's signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATATYPES", "NUMPY_TYPES", "TensorSpec", "datatype_of"]

NUMPY_TYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
        **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
        **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    }
)
DATATYPES = frozenset({*NUMPY_TYPES, "BYTES"})
_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def datatype_of(array: NDArray[Any]) -> str:
    """What the protocol calls the type of an array.

    Example:
        >>> datatype_of(np.zeros(2, np.float32))
        'FP32'
    """
    return _NAMES[array.dtype]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a model's signature; its first axis, the batch, is free.

    Args:
        name: of the input or output.
        datatype: one of `NUMPY_TYPES`.
        shape: of one row.

    Example:
        >>> TensorSpec("r", "FP32", (8, 8, 8)).to_json()
        {'name': 'r', 'datatype': 'FP32', 'shape': [-1, 8, 8, 8]}
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of numpy, little-endian."""
        return NUMPY_TYPES[self.datatype]

    def to_json(self) -> dict[str, Any]:
        """As the metadata of a model says it."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}
