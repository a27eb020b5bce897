"""What several releases of one picture amount to, by name, so that a file can say it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from splitveil.contracts import FeatureSpec
from splitveil.errors import UnknownNameError
from splitveil.rng import Rng

__all__ = ["COMBINATIONS", "Combine", "around", "combination_name", "find_combination", "kept_mean", "median", "passed"]

Combine = Callable[[Tensor], Tensor]
"""``(n, m, *r)`` to ``(n, *r)``."""

_ROUNDING = 1e-5  # of what a zero arrives as: a graph of the same codec sums in another order


def passed(r: Tensor, zero: Tensor | float = 0.0) -> Tensor:
    """Where releases ``(..., *r)`` hold a value that no mask has set to zero, boolean.

    Args:
        r: releases.
        zero: ``(*r)``, what a zero arrives as; a quantiser whose levels miss zero sends the nearest one.

    Example:
        >>> passed(torch.tensor([0.25, -0.25, 0.75]), 0.25).tolist()
        [False, True, True]
    """
    zero = torch.as_tensor(zero).to(r)
    return (r - zero).abs() > _ROUNDING * zero.abs()


def around(zero: Tensor, combine: Combine) -> Combine:
    """Combine releases in which a zero arrives as ``zero (*r)``, and leave it so where nothing passed.

    Example:
        >>> around(torch.tensor(0.25), kept_mean)(torch.tensor([[[0.25, 0.25], [0.75, 0.25]]])).tolist()
        [[0.75, 0.25]]
    """
    if not bool(zero.any()):
        return combine
    return lambda r: combine(torch.where(passed(r, zero), r - zero, 0.0)) + zero


def _mean(r: Tensor) -> Tensor:
    return r.mean(dim=1)


def kept_mean(r: Tensor) -> Tensor:
    """Mean of the releases ``(n, m, *r)`` that let a value pass, 0 where none did: masks hide by zeros.

    Example:
        >>> kept_mean(torch.tensor([[[0.0, 2.0, 0.0], [1.0, 4.0, 0.0]]])).tolist()
        [[1.0, 3.0, 0.0]]
    """
    return r.sum(dim=1) / (r != 0).sum(dim=1).clamp_min(1)


def median(r: Tensor) -> Tensor:
    """Median of the releases ``(n, m, *r)``, the mean of the two middle ones where m is even.

    Example:
        >>> float(median(torch.tensor([[[0.0], [1.0], [3.0], [9.0]]])))
        2.0
    """
    ordered = r.sort(dim=1).values
    m = r.shape[1]
    return (ordered[:, (m - 1) // 2] + ordered[:, m // 2]) / 2


def _union(r: Tensor) -> Tensor:
    return r.gather(1, r.abs().argmax(dim=1, keepdim=True)).squeeze(1)


COMBINATIONS: dict[str, Combine] = {"mean": _mean, "median": median, "union": _union, "kept_mean": kept_mean}
"""``mean`` is sufficient for Gaussian noise, ``median`` suits Laplace noise, ``union`` keeps the largest of what masks
let pass, ``kept_mean`` averages it."""


def find_combination(combine: Combine | str) -> Combine:
    """The function that is meant.

    Raises:
        UnknownNameError: a name that is none of `COMBINATIONS`.

    Example:
        >>> float(find_combination("median")(torch.tensor([[[0.0], [0.0], [3.0]]])))
        0.0
    """
    if not isinstance(combine, str):
        return combine
    if combine not in COMBINATIONS:
        raise UnknownNameError("combination of releases", combine, COMBINATIONS)
    return COMBINATIONS[combine]


def combination_name(combine: Combine, spec: FeatureSpec) -> str | None:
    """Which of `COMBINATIONS` a function is on random sparse releases of this spec, or None.

    Example:
        >>> combination_name(lambda r: r.mean(dim=1), FeatureSpec.of((4,)))
        'mean'
    """
    generator = Rng(0).child("combination").generator()
    stack = torch.randn(2, 5, *spec.shape, generator=generator)
    stack = stack * (torch.rand(stack.shape, generator=generator) < 0.7)  # with zeros, as masks leave them
    with torch.no_grad():
        got = combine(stack)
        for name, known in COMBINATIONS.items():
            expected = known(stack)
            if got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-5, atol=1e-6):
                return name
    return None
