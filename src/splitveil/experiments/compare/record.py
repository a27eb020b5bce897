"""What a comparison found, as it is written: ``comparison.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from splitveil.errors import MissingDataError
from splitveil.metrics.tradeoff import DeltaSummary
from splitveil.specs import Frozen, PlugInSpec, parse, read_json

__all__ = ["FILE", "ComparisonRecord", "DeltaRecord", "Interval", "PointRecord", "ValidityCheck", "curve_of"]

FILE = "comparison.json"
_MOSTLY = 0.95


def curve_of(defense: PlugInSpec) -> str:
    """The curve that a point lies on: the defense, and its parameters that are words.

    Numbers are what a defense trades accuracy against leakage with; a word, such as the kind of a covariance, makes
    another method of it.

    Example:
        >>> curve_of(PlugInSpec(name="cem", params={"weight": 0.5, "covariance": "full"}))
        'cem covariance=full'
    """
    words = [f"{key}={value}" for key, value in defense.params.items() if isinstance(value, str)]
    return " ".join([defense.name, *words])


class Interval(Frozen):
    """A mean with its bootstrap interval over seeds and pictures."""

    mean: float
    low: float
    high: float


class PointRecord(Frozen):
    """One defense with one choice of parameters, over its seeds.

    Args:
        defense: name and parameters.
        runs: folders below the comparison's, by seed.
        val_accuracy: of the selected epochs on validation pictures, mean over seeds.
        val_mse: of the attacker on its held-out auxiliary pictures, mean over seeds.
        selected: whether no other point of its curve is better in both, on these validation figures.
        accuracy: on test pictures.
        mse: of the attacker on test pictures.
        psnr_db: likewise.
        converged_share: of the attackers, None where they have no budget to converge in.
        controls: that every attacker was held against, of the mean picture, the class means and ridge regression.
        beats_controls: whether every attacker beat them all; a defended point where not is on no curve.
        tells_nothing: of a point where not, whether no control did better than an attacker beyond their intervals: the
            releases may tell nothing, or the attacker may be weak.
    """

    defense: PlugInSpec
    runs: dict[int, str]
    val_accuracy: float
    val_mse: float
    selected: bool
    accuracy: Interval
    mse: Interval
    psnr_db: float
    converged_share: float | None
    controls: tuple[str, ...]
    beats_controls: bool
    tells_nothing: bool = False

    @property
    def curve(self) -> str:
        """The curve that it lies on."""
        return curve_of(self.defense)

    @property
    def label(self) -> str:
        """Name and parameters in a few words."""
        params = ", ".join(f"{key}={value}" for key, value in self.defense.params.items())
        return f"{self.defense.name} {params}".strip()

    @property
    def unconverged(self) -> bool:
        """Whether an attacker was still learning when its budget ended: then the true error is smaller."""
        return self.converged_share is not None and self.converged_share < 1


class DeltaRecord(Frozen):
    """One defense over another at equal accuracy, and at equal attacker error.

    Without a shared range of at least two accuracy points the verdict is ``no overlap`` and there is no number; without
    a seed that all of its runs have, since some failed, it is ``no shared seed``; without a point of one of them on
    which the attacker beats its controls, ``controls not beaten``. `converged_share` is that of the attackers behind
    the number.
    """

    reference: str
    other: str
    verdict: Literal["delta", "no overlap", "no shared seed", "controls not beaten"]
    mse_db: Interval | None = None
    accuracy_points: Interval | None = None
    accuracy_range: tuple[float, float] | None = None
    overlapping_share: float
    level: float
    resamples: int
    seeds: int
    pictures: int
    converged_share: float | None = None

    @classmethod
    def without_number(
        cls, reference: str, other: str, verdict: Literal["no shared seed", "controls not beaten"], level: float
    ) -> DeltaRecord:
        """The record of what nothing was resampled for."""
        return cls(
            reference=reference,
            other=other,
            verdict=verdict,
            overlapping_share=0.0,
            level=level,
            resamples=0,
            seeds=0,
            pictures=0,
        )

    @classmethod
    def from_summary(
        cls, reference: str, other: str, summary: DeltaSummary, converged_share: float | None
    ) -> DeltaRecord:
        """The record of a paired bootstrap."""
        found = summary.delta if summary.mse_db else None
        return cls(
            reference=reference,
            other=other,
            verdict="delta" if found else "no overlap",
            mse_db=_interval(found.mse_db, summary.mse_db) if found else None,
            accuracy_points=_interval(found.accuracy_points, summary.accuracy_points) if found else None,
            accuracy_range=found.accuracy_range if found else None,
            overlapping_share=summary.overlapping_share,
            level=summary.level,
            resamples=summary.resamples,
            seeds=summary.seeds,
            pictures=summary.pictures,
            converged_share=converged_share,
        )

    @property
    def rarely_shared(self) -> bool:
        """Whether the curves of many resamples shared no accuracies: the interval speaks of the others alone."""
        return self.verdict == "delta" and self.overlapping_share < _MOSTLY

    @property
    def certain(self) -> bool:
        """Whether the interval of the gap in decibels leaves zero out."""
        return self.mse_db is not None and not self.mse_db.low <= 0 <= self.mse_db.high

    @property
    def unconverged(self) -> bool:
        """Whether an attacker behind the number was still learning when its budget ended."""
        return self.converged_share is not None and self.converged_share < 1


def _interval(mean: float | None, limits: tuple[float, float] | None) -> Interval | None:
    return Interval(mean=mean, low=limits[0], high=limits[1]) if mean is not None and limits is not None else None


class ValidityCheck(Frozen):
    """A control, its outcome, and the evidence."""

    title: str
    outcome: Literal["pass", "fail", "unchecked"]
    detail: str


class ComparisonRecord(Frozen):
    """A comparison: its points, its deltas, its controls, and what failed.

    `status` is ``invalid`` where a control failed, and ``unproven`` where the attacker was never seen to work, because
    no undefended model stands beside the others.
    """

    format: Literal[1] = 1
    recipe: str
    data: dict[str, Any]
    seeds: tuple[int, ...]
    selected_on: Literal["validation"] = "validation"
    points: tuple[PointRecord, ...]
    deltas: tuple[DeltaRecord, ...]
    checks: tuple[ValidityCheck, ...]
    status: Literal["valid", "unproven", "invalid"]
    failed: dict[str, str]
    converged_share: float | None

    @classmethod
    def open(cls, folder: Path) -> ComparisonRecord:
        """Read the record of a comparison's folder.

        Raises:
            MissingDataError: there is none.
            SpecError: it has another form.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            raise MissingDataError(f"expected a comparison in '{folder}', got no {FILE}: run splitveil compare")
        return parse(cls, read_json(file), str(file))
