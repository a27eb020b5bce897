"""What an attacker is granted: plain data, so that an audit can say exactly what it assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from splitveil.errors import SpecError, UnknownNameError

__all__ = ["SHIFTS", "Auxiliary", "Duplicates", "Grant", "ThreatModel"]

Grant = Literal["weights", "architecture", "query", "pairs", "tail", "labels"]
Auxiliary = Literal["train", "same", "shifted", "none"]
Duplicates = Literal["exact", "near"]

SHIFTS = ("corruptions", "held_out_classes")
"""How auxiliary pictures may differ from those attacked, where they come from the same source."""

_LATER = {"duplicates": "exact", "shift": None}


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """What the attacker holds.

    Args:
        grants: ``weights`` of the head, its ``architecture``, the right to ``query`` it, ``pairs`` (x, r) of
            auxiliary pictures, the ``tail`` that the cloud holds, ``labels`` of the auxiliary pictures.
        knows_mechanism: always: the attacker knows how the release is made (Kerckhoffs's principle).
        auxiliary: where the attacker's own pictures come from.
        observations: releases of one picture that the attacker sees.
        duplicates: whether these are releases of the very same bytes, or of near duplicates: the next frame of a
            video, another encoding. Noise that is keyed to the bytes stops the former alone.
        shift: of ``shifted`` pictures: ``corruptions``, ``held_out_classes``, or the path of another data set.
        query_budget: the most releases it may ask for; None for no limit.

    Example:
        >>> ThreatModel.preset("black_box").allows("weights")
        False
    """

    grants: frozenset[Grant]
    knows_mechanism: bool = True
    auxiliary: Auxiliary = "same"
    observations: int = 1
    query_budget: int | None = None
    duplicates: Duplicates = "exact"
    shift: str | None = None

    def __post_init__(self) -> None:
        for grant in self.grants:
            if grant not in get_args(Grant):
                raise UnknownNameError("grant", str(grant), get_args(Grant))
        if self.auxiliary not in get_args(Auxiliary):
            raise UnknownNameError("auxiliary source", str(self.auxiliary), get_args(Auxiliary))
        if self.duplicates not in get_args(Duplicates):
            raise UnknownNameError("kind of duplicates", str(self.duplicates), get_args(Duplicates))
        if self.shift is not None and self.auxiliary != "shifted":
            raise SpecError(f"expected a shift for auxiliary pictures that are 'shifted' only, got '{self.auxiliary}'")
        if not self.knows_mechanism:
            raise SpecError(
                "expected an attacker who knows the mechanism, got knows_mechanism = false: what has to be kept secret "
                "is a key, not how a release is made; grant less instead"
            )
        if self.observations < 1:
            raise SpecError(f"expected observations >= 1, got {self.observations}")
        if self.query_budget is not None and self.query_budget < 0:
            raise SpecError(f"expected query_budget >= 0 or None, got {self.query_budget}")

    def allows(self, grant: Grant) -> bool:
        """Whether the attacker holds this; whoever may query can make pairs of its own pictures."""
        return grant in self.grants or (grant == "pairs" and "query" in self.grants)

    @property
    def is_foreign(self) -> bool:
        """Whether the auxiliary pictures are another data set, with labels of its own."""
        return self.shift is not None and self.shift not in SHIFTS

    def missing(self, needs: Iterable[Grant]) -> list[Grant]:
        """What of these needs is not granted, sorted."""
        return sorted(grant for grant in needs if not self.allows(grant))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a record; fields that came later are left out at their defaults, so that old keys hold."""
        plain = {key: value for key, value in asdict(self).items() if value != _LATER.get(key, ...)}
        return {**plain, "grants": sorted(self.grants)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ThreatModel:
        """The inverse of `to_json`."""
        return cls(**{**data, "grants": frozenset(data["grants"])})

    @classmethod
    def preset(cls, name: str) -> ThreatModel:
        """One of ``white_box``, ``black_box``, ``pairs_only``, ``query_free``."""
        if name not in _PRESETS:
            raise UnknownNameError("threat model", name, _PRESETS)
        return cls(grants=_PRESETS[name])


_PRESETS: dict[str, frozenset[Grant]] = {
    "white_box": frozenset({"weights", "architecture", "query", "pairs", "tail", "labels"}),
    "black_box": frozenset({"query", "pairs", "tail", "labels"}),
    "pairs_only": frozenset({"pairs"}),
    "query_free": frozenset({"tail", "labels"}),
}
