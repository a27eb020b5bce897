"""Trade-off curves, accuracy against the error of an attacker, and the mean gap between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from splitveil.errors import InputError

__all__ = ["Delta", "TradeOff", "delta", "pareto"]

_TIE = 1e-9  # accuracies this near are one, and a value this far outside a range counts as its end
_LEAST_DB = 1e-6  # ranges narrower than this have no width: their ends differ by rounding

Floats = NDArray[np.float64]


def pareto(accuracy: ArrayLike, mse: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats.

    ``kept_i = no j with accuracy_j >= accuracy_i and mse_j >= mse_i, one of them strictly``; of equal points the first.

    Args:
        accuracy: ``(m,)``, m >= 1, in [0, 1].
        mse: ``(m,)``, of the attacker, > 0.

    Returns:
        ``(m,)``, in the order of the points.

    Raises:
        InputError: shapes, values or sizes are not these.

    Example:
        >>> pareto([0.9, 0.8, 0.8, 0.7], [0.01, 0.03, 0.02, 0.03]).tolist()
        [True, True, False, False]
    """
    x, y = _points(accuracy, mse)
    order = np.lexsort((-y, -x))  # best accuracy first, then best error; stable, so the first of equal points leads
    before = np.concatenate(([-np.inf], np.maximum.accumulate(y[order])[:-1]))
    kept = np.zeros(len(x), dtype=np.bool_)
    kept[order] = y[order] > before
    return kept


@dataclass(frozen=True)
class TradeOff:
    """A falling curve: the attacker's error, in dB, that a defense offers at each accuracy.

    A monotone cubic runs through the knots and never leaves their range. Both directions read this one curve, so that
    ``mse_db_at(accuracy_at(d)) = d``.

    Attributes:
        accuracy: of the knots, rising, in [0, 1].
        mse_db: of the knots, ``10 log10(mse)``, never rising.

    Raises:
        InputError: the knots are not these.

    Reference:
        Fritsch, Butland: A method for constructing local monotone piecewise cubic interpolants, SIAM 1984.
    """

    accuracy: tuple[float, ...]
    mse_db: tuple[float, ...]

    def __post_init__(self) -> None:
        knots = np.array(self.accuracy), np.array(self.mse_db)
        if knots[0].ndim != 1 or knots[0].shape != knots[1].shape or not len(knots[0]):
            raise InputError(
                f"expected as many accuracies as errors, at least one, got {knots[0].shape} and {knots[1].shape}: "
                "use TradeOff.fit"
            )
        rising, falling = np.all(np.diff(knots[0]) > 0), np.all(np.diff(knots[1]) <= 0)
        if not (np.isfinite(knots).all() and rising and falling):
            raise InputError("expected rising accuracies and falling finite errors, got other knots: use TradeOff.fit")

    @classmethod
    def fit(cls, accuracy: ArrayLike, mse: ArrayLike) -> TradeOff:
        """The falling curve nearest to noisy points.

        ``minimise over falling f: sum_i (10 log10 mse_i - f(accuracy_i))^2``; points of one accuracy share one knot.

        Args:
            accuracy: ``(m,)``, m >= 1, in [0, 1], any order.
            mse: ``(m,)``, of the attacker, > 0.

        Raises:
            InputError: shapes, values or sizes are not these.

        Example:
            >>> curve = TradeOff.fit([0.9, 0.6, 0.7, 0.8], [0.001, 0.1, 0.01, 0.01])
            >>> curve.accuracy_range, curve.mse_db_range
            ((0.6, 0.9), (-30.0, -10.0))
            >>> float(curve.mse_db_at(0.75)), float(curve.accuracy_at(-20.0))  # the end of the flat stretch
            (-20.0, 0.8)

        Reference:
            Barlow, Bartholomew, Bremner, Brunk: Statistical Inference under Order Restrictions, 1972, section 1.2.
        """
        x, y = _points(accuracy, mse)
        order = np.argsort(x, kind="stable")
        x, error_db = x[order], 10 * np.log10(y[order])
        starts = np.concatenate(([0], np.flatnonzero(np.diff(x) > _TIE) + 1))
        counts = np.diff(np.append(starts, len(x)))
        means = np.add.reduceat(error_db, starts) / counts
        return cls(tuple(x[starts].tolist()), tuple(_falling(means.tolist(), counts.tolist())))

    @property
    def accuracy_range(self) -> tuple[float, float]:
        """Lowest and highest accuracy."""
        return self.accuracy[0], self.accuracy[-1]

    @property
    def mse_db_range(self) -> tuple[float, float]:
        """Lowest and highest error, dB."""
        return self.mse_db[-1], self.mse_db[0]

    def mse_db_at(self, accuracy: ArrayLike) -> Floats:
        """Error of the attacker at an accuracy.

        Args:
            accuracy: any shape, within `accuracy_range`.

        Returns:
            dB, of the same shape.

        Raises:
            InputError: an accuracy lies outside the range.
        """
        inside = _within(accuracy, self.accuracy_range, "an accuracy")
        if len(self.accuracy) == 1:
            return np.full(inside.shape, self.mse_db[0])
        return np.asarray(self._curve(inside), dtype=np.float64)

    def accuracy_at(self, mse_db: ArrayLike) -> Floats:
        """Highest accuracy at which the attacker still has this error: ``max {a : mse_db_at(a) >= mse_db}``.

        Args:
            mse_db: dB, any shape, within `mse_db_range`.

        Returns:
            Accuracies of the same shape; on a flat stretch that of its upper end.

        Raises:
            InputError: an error lies outside the range.
        """
        inside = _within(mse_db, self.mse_db_range, "an error in dB")
        return np.array([self._invert(value) for value in inside.ravel().tolist()]).reshape(inside.shape)

    def mean_mse_db(self, low: float, high: float) -> float:
        """Mean error over the accuracies from `low` to `high`, dB: ``integral of mse_db_at / (high - low)``.

        Raises:
            InputError: the accuracies lie outside the range, or `high` is not above `low`.
        """
        _check_span(low, high)
        start, end = _within([low, high], self.accuracy_range, "an accuracy")
        return self._area(start, end) / (high - low)

    def mean_accuracy(self, low: float, high: float) -> float:
        """Mean accuracy over the errors from `low` to `high` dB: ``integral of accuracy_at / (high - low)``.

        The area beside the curve is that under it, ``a(high) + integral from a(high) to a(low) of (mse_db_at - low) /
        (high - low)``, and exact.

        Raises:
            InputError: the errors lie outside the range, or `high` is not above `low`.
        """
        _check_span(low, high)
        first, last = self.accuracy_at([high, low]).tolist()
        area = self._area(first, last) - low * (last - first)
        return float(first + area / (high - low))

    @cached_property
    def _curve(self) -> PchipInterpolator:
        return PchipInterpolator(self.accuracy, self.mse_db)

    def _area(self, start: float, end: float) -> float:
        return float(self._curve.integrate(start, end))

    def _invert(self, mse_db: float) -> float:
        piece = int(np.searchsorted(-np.array(self.mse_db), -mse_db, side="right")) - 1  # last knot not below
        if piece == len(self.mse_db) - 1 or self.mse_db[piece] == mse_db:
            return self.accuracy[piece]
        cubic = self._curve.c[:, piece].tolist()
        width = self.accuracy[piece + 1] - self.accuracy[piece]

        def above(step: float) -> float:
            return float(((cubic[0] * step + cubic[1]) * step + cubic[2]) * step + cubic[3] - mse_db)

        if above(width) >= 0:  # by rounding
            return self.accuracy[piece + 1]
        return self.accuracy[piece] + float(brentq(above, 0.0, width, xtol=1e-15))


@dataclass(frozen=True)
class Delta:
    """How far one curve lies above another.

    Attributes:
        mse_db: mean gap in the attacker's error at equal accuracy, dB.
        accuracy_points: mean gap in accuracy at equal error, percentage points; None where they share no range of it.
        accuracy_range: lowest and highest accuracy that both curves reach.
    """

    mse_db: float
    accuracy_points: float | None
    accuracy_range: tuple[float, float]


def delta(reference: TradeOff, other: TradeOff, least_overlap: float = 0.02) -> Delta | None:
    """Mean gaps of `other` over `reference`, each over the range that the two share.

    ``mse_db = integral of (other - reference) over accuracy / width`` and the same with the axes exchanged.

    Args:
        reference: the curve that counts as zero.
        other: the curve to be judged; positive gaps speak for it.
        least_overlap: accuracies, in [0, 1], that the curves must share.

    Returns:
        The gaps, or None where the curves share less: then no number is a fair one.

    Raises:
        InputError: `least_overlap` lies outside [0, 1].

    Example:
        >>> accuracy = [0.6, 0.7, 0.8]
        >>> reference = TradeOff.fit(accuracy, [0.04, 0.02, 0.01])
        >>> found = delta(reference, TradeOff.fit(accuracy, [0.08, 0.04, 0.02]))
        >>> round(found.mse_db, 2), round(found.accuracy_points, 2)
        (3.01, 10.0)
        >>> delta(reference, TradeOff.fit([0.2, 0.3], [0.2, 0.1])) is None
        True

    Reference:
        Bjøntegaard: Calculation of average PSNR differences between RD-curves, VCEG-M33, 2001.
    """
    check_overlap(least_overlap)
    low, high = _shared(reference.accuracy_range, other.accuracy_range)
    if high - low < max(_TIE, least_overlap - _TIE):
        return None
    return Delta(
        mse_db=other.mean_mse_db(low, high) - reference.mean_mse_db(low, high),
        accuracy_points=_accuracy_points(reference, other),
        accuracy_range=(low, high),
    )


def check_overlap(least_overlap: float) -> None:
    """Raise InputError unless `least_overlap` lies in [0, 1]."""
    # written so that NaN fails it
    if not 0 <= least_overlap <= 1:
        raise InputError(f"expected least_overlap in [0, 1], got {least_overlap}: 0.02 is usual")


def _accuracy_points(reference: TradeOff, other: TradeOff) -> float | None:
    low, high = _shared(reference.mse_db_range, other.mse_db_range)
    if high - low < _LEAST_DB:
        return None
    return 100 * (other.mean_accuracy(low, high) - reference.mean_accuracy(low, high))


def _shared(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return max(a[0], b[0]), min(a[1], b[1])


def _falling(values: list[float], weights: list[int]) -> list[float]:
    """Isotonic regression by pooling neighbours that rise, in one pass."""
    blocks: list[tuple[float, int, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = value, weight, 1
        while blocks and blocks[-1][0] < mean:
            before, heavy, longer = blocks.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total, length = total + heavy, length + longer
        blocks.append((mean, total, length))
    return [mean for mean, _, length in blocks for _ in range(length)]


def _points(accuracy: ArrayLike, mse: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(accuracy, dtype=np.float64), np.asarray(mse, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise InputError(
            f"expected accuracies and errors of one shape (m,), m >= 1, got {x.shape} and {y.shape}: "
            "pass one pair per point"
        )
    _check_values(x, lambda a: (a >= 0) & (a <= 1), "accuracies in [0, 1]", "divide percentages by 100")
    _check_values(y, lambda e: (e > 0) & np.isfinite(e), "finite errors > 0", "leave out failed or perfect attacks")
    return x, y


def _check_values(values: Floats, good: Callable[[Floats], NDArray[np.bool_]], wanted: str, cure: str) -> None:
    bad = values[~good(values)]  # NaN is never good
    if len(bad):
        raise InputError(f"expected {wanted}, got {bad[0]:g} among {values.size}: {cure}")


def _check_span(low: float, high: float) -> None:
    if not low < high:
        raise InputError(f"expected low < high, got {low:g} and {high:g}: a mean needs a range with width")


def _within(values: ArrayLike, ends: tuple[float, float], name: str) -> Floats:
    """The values, at most a rounding step moved into the range."""
    asked = np.asarray(values, dtype=np.float64)
    low, high = ends
    good = (asked >= low - _TIE) & (asked <= high + _TIE)  # False for NaN
    if not good.all():
        raise InputError(
            f"expected {name} from {low:g} to {high:g}, got {asked[~good][0]:g}: curves do not extrapolate"
        )
    return np.clip(asked, low, high)
