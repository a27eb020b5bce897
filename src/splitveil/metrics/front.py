"""Which choices no other choice beats, whatever one weighs their costs by."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splitveil.errors import InputError

__all__ = ["pareto_front"]


def pareto_front(costs: ArrayLike) -> NDArray[np.bool_]:
    """The rows that no other row beats.

    ``kept_i = no j with costs_j <= costs_i in all columns, and < in one``; equal rows are kept together.

    Args:
        costs: ``(m, k)``, m, k >= 1, finite, lower is better; negate what is better higher.

    Returns:
        ``(m,)``, in the order of the rows.

    Raises:
        InputError: shape or values are not these.

    Example:
        >>> pareto_front([[1, 9], [2, 5], [3, 5], [9, 1]]).tolist()
        [True, True, False, True]
    """
    values = np.asarray(costs, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError(
            f"expected finite costs (m, k), one row per choice, got shape {values.shape}: leave out what is not known"
        )
    below = (values[:, None] <= values[None]).all(2) & (values[:, None] < values[None]).any(2)  # j beats i at [j, i]
    return np.asarray(~below.any(0), dtype=np.bool_)
