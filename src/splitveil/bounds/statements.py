"""What a bound says: a certificate holds for every attacker, an estimate rests on something only estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from splitveil.errors import SpecError

__all__ = ["Certificate", "Estimate", "Relation", "Statement"]

Relation = Literal["<=", ">="]


@dataclass(frozen=True, slots=True)
class Statement:
    """``quantity relation value unit``, and under what it holds.

    ```
    Statement ─┬─ Certificate    holds for every attacker inside its threat, once the assumptions hold
               └─ Estimate       besides, something in it was estimated: it may be void, and is never called a bound
    ```

    Args:
        name: of the method, as in ``capacity``.
        quantity: what is bounded, as in ``information`` or ``mse``.
        relation: on which side the quantity lies.
        value: in `unit`.
        unit: of the value.
        observations: releases of one picture that the attacker holds.
        assumptions: what must hold, a sentence each.
        confidence: that the value is right where it was computed from samples; 1 where it was not.
        n: samples that it was computed from, None for none.
        reference: source, with equation.

    Raises:
        SpecError: a value that is not a number, or a confidence out of range.
    """

    kind: ClassVar[str] = "statement"

    name: str
    quantity: str
    relation: Relation
    value: float
    unit: str
    assumptions: tuple[str, ...]
    reference: str
    observations: int = 1
    confidence: float = 1.0
    n: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not 0 < self.confidence <= 1 or self.observations < 1:
            raise SpecError(
                "expected a finite value, a confidence in (0, 1] and observations >= 1, "
                f"got {self.value}, {self.confidence} and {self.observations}"
            )


@dataclass(frozen=True, slots=True)
class Certificate(Statement):
    """Holds for every attacker inside its threat.

    Example:
        >>> found = Certificate("payload", "information", "<=", 355.0, "nats", ("64 bytes on the wire",), "Shannon")
        >>> found.kind
        'certificate'
    """

    kind: ClassVar[str] = "certificate"


@dataclass(frozen=True, slots=True)
class Estimate(Statement):
    """Rests on something only estimated, which `rests_on` names.

    Args:
        rests_on: what was estimated, and how.
        low: lower limit of the value over resamples, None where there are none.
        high: upper limit.

    Example:
        >>> found = Estimate("shannon", "mse", ">=", 7e-5, "1", (), "arXiv 2503.00383, Theorem 1", rests_on="h(x)")
        >>> found.kind
        'estimate'
    """

    kind: ClassVar[str] = "estimate"

    rests_on: str = ""
    low: float | None = None
    high: float | None = None
