"""Sources for tasks other than classification: pictures with values, with masks, or with nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splitveil.data.rows import Rows
from splitveil.data.tables import FEWEST_PER_CLASS, ImageTable, Source, check_shapes
from splitveil.errors import InputError

__all__ = ["make_bare_source", "make_valued_source"]

_MOST_GROUPS = 5


def make_bare_source(
    name: str,
    train: Rows,
    test: Rows | None = None,
    *,
    masks: tuple[Rows, Rows | None] | None = None,
    skipped: Sequence[str] = (),
) -> Source:
    """A source without classes: all pictures are of one group.

    Args:
        name: shown in records.
        train: ``(n, c, h, w)`` uint8.
        test: likewise, a test table of the source's own.
        masks: of both, ``(n, h, w)`` uint8, a class per pixel, 255 where nobody knows; None for pictures alone.
        skipped: names of pictures that were left out.

    Raises:
        InputError: fewer pictures than can be split, or tables that differ.

    Example:
        >>> make_bare_source("mine", torch.zeros(16, 1, 8, 8, dtype=torch.uint8)).class_names
        ('all',)
    """
    known, held = masks or (None, None)
    table = ImageTable(train, torch.zeros(len(train), dtype=torch.int64), known)
    other = None if test is None else ImageTable(test, torch.zeros(len(test), dtype=torch.int64), held)
    _check_enough(name, len(train))
    check_shapes(name, table, other)
    return Source(name, table, other, ("all",), skipped=tuple(skipped))


def make_valued_source(
    name: str,
    train: Rows,
    values: Tensor,
    test: tuple[Rows, Tensor] | None = None,
    *,
    skipped: Sequence[str] = (),
) -> Source:
    """A source whose pictures come with values; they are stratified by quantiles of the first.

    Args:
        name: shown in records.
        train: ``(n, c, h, w)`` uint8.
        values: ``(n, t)`` float32.
        test: pictures and values of a test table of the source's own.
        skipped: names of pictures that were left out.

    Raises:
        InputError: values that are not finite, fewer pictures than can be split, or tables that differ.

    Example:
        >>> pictures = torch.zeros(40, 1, 8, 8, dtype=torch.uint8)
        >>> make_valued_source("mine", pictures, torch.arange(40.0).reshape(40, 1)).class_names
        ('up to 7.8', 'up to 15.6', 'up to 23.4', 'up to 31.2', 'above 31.2')
    """
    for given in (values, *(() if test is None else (test[1],))):
        if not bool(torch.isfinite(given).all()):
            raise InputError(f"expected finite values in '{name}', got NaN or infinity: remove those pictures")
    _check_enough(name, len(train))
    edges = _edges(values[:, 0])
    table = ImageTable(train, _groups(values, edges), values)
    other = None if test is None else ImageTable(test[0], _groups(test[1], edges), test[1])
    check_shapes(name, table, other)
    names = tuple(f"up to {edge:.4g}" for edge in edges) + ((f"above {edges[-1]:.4g}",) if edges else ("all",))
    return Source(name, table, other, names, edges=edges, skipped=tuple(skipped))


def _groups(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    return torch.bucketize(values[:, 0].double(), torch.tensor(edges, dtype=torch.float64))


def _edges(values: Tensor) -> tuple[float, ...]:
    """As many quantiles as leave a usable number of pictures between any two."""
    for count in range(min(_MOST_GROUPS, len(values) // FEWEST_PER_CLASS), 1, -1):
        shares = torch.arange(1, count, dtype=torch.float64) / count
        edges = tuple(sorted(set(torch.quantile(values.double(), shares).tolist())))
        sizes = torch.bincount(_groups(values[:, None], edges), minlength=len(edges) + 1)
        if int(sizes.min()) >= FEWEST_PER_CLASS:
            return edges
    return ()


def _check_enough(name: str, count: int) -> None:
    if count < FEWEST_PER_CLASS:
        raise InputError(
            f"expected at least {FEWEST_PER_CLASS} pictures in '{name}', so that each split gets some, got {count}"
        )
