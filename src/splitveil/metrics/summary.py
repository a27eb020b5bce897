"""From one score per sample to a mean with its interval and the least safe sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from splitveil.contracts import Summary
from splitveil.errors import InputError, SpecError, UnknownNameError
from splitveil.rng import Rng

__all__ = ["summarize"]

_CHUNK_DRAWS = 2**22


def summarize(
    values: Tensor,
    *,
    rng: Rng,
    level: float = 0.95,
    safer: Literal["higher", "lower"] = "higher",
    resamples: int = 2000,
) -> Summary:
    """Mean, percentile bootstrap interval over samples, and the worst sample.

    The interval runs from the ``(1 - level) / 2`` to the ``(1 + level) / 2`` quantile of the means of `resamples`
    draws of n samples with replacement. It speaks of other samples like these, not of other training runs.

    Args:
        values: ``(n,)``, one score per sample, n >= 2.
        rng: key of the resampling.
        level: coverage of the interval, in (0, 1).
        safer: which direction is safe; the worst sample is the minimum for ``higher``.
        resamples: draws of the bootstrap.

    Returns:
        A summary in float64; of several worst samples the first.

    Raises:
        InputError: fewer than two values, another shape, or NaN or infinity among them.
        SpecError: `level`, `safer` or `resamples` cannot be meant.

    Example:
        >>> found = summarize(torch.tensor([0.0, 1.0, 2.0, 3.0]), rng=Rng(0))
        >>> found.mean, found.worst, found.worst_index, found.low < 1.5 < found.high
        (1.5, 0.0, 0, True)

    Reference:
        Efron, Tibshirani: An Introduction to the Bootstrap, 1993, eq. 13.5.
    """
    _check(values, level, safer, resamples)
    scores = values.detach().to("cpu", torch.float64)
    mean = float(scores.mean())
    means = _bootstrap_means(scores, rng.generator(), resamples)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = (float(bound) for bound in torch.quantile(means, tails))
    worst_index = int(scores.argmin() if safer == "higher" else scores.argmax())
    return Summary(
        mean=mean,
        # equal values may put the mean one rounding step outside
        low=min(low, mean),
        high=max(high, mean),
        level=level,
        worst=float(scores[worst_index]),
        worst_index=worst_index,
        n=len(scores),
    )


def _check(values: Tensor, level: float, safer: str, resamples: int) -> None:
    if values.ndim != 1 or len(values) < 2:
        raise InputError(f"expected at least 2 values of shape (n,), got {tuple(values.shape)}: score more samples")
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise InputError(f"expected finite values, got {bad} NaN or infinite of {len(values)}: find the failed samples")
    if not 0 < level < 1:
        raise SpecError(f"expected level in (0, 1), got {level}: 0.95 is usual")
    if safer not in ("higher", "lower"):
        raise UnknownNameError("safe direction", safer, ("higher", "lower"))
    if resamples < 2:
        raise SpecError(f"expected resamples >= 2, got {resamples}: 2000 is usual")


def _bootstrap_means(scores: Tensor, generator: torch.Generator, resamples: int) -> Tensor:
    """Means of `resamples` draws with replacement, ``(resamples,)``, in chunks of bounded memory."""
    n = len(scores)
    rows = max(1, _CHUNK_DRAWS // n)
    means = []
    for start in range(0, resamples, rows):
        draws = torch.randint(n, (min(rows, resamples - start), n), generator=generator)
        means.append(scores[draws].mean(dim=1))
    return torch.cat(means)
