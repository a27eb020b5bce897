"""What was certified and what was estimated about a run, and the attacks against it: ``certificates.json``."""

from __future__ import annotations

from typing import ClassVar, Literal

from splitveil.records import FiledRecord
from splitveil.specs import Frozen

__all__ = ["FILE", "Card", "Rung", "StatementRecord"]

FILE = "certificates.json"


class StatementRecord(Frozen):
    """A `splitveil.bounds.Certificate` or `Estimate` as it is written."""

    kind: Literal["certificate", "estimate"]
    name: str
    quantity: str
    relation: Literal["<=", ">="]
    value: float
    unit: str
    assumptions: tuple[str, ...]
    reference: str
    observations: int
    confidence: float
    n: int | None
    rests_on: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def secure(self) -> float:
        """The value that attacks are held against: an estimate's lower limit where there is one."""
        return self.value if self.low is None else min(self.low, self.value)

    @property
    def basis(self) -> str:
        """What it rests on, as a table says it: what was estimated, or where its information comes from."""
        told = [text for text in self.assumptions if text.startswith(("information by", "the gallery"))]
        return self.rests_on or ", ".join(told)

    @property
    def is_of_payload(self) -> bool:
        """Whether it holds for the bytes that are sent, and not for the release before it is encoded."""
        return self.name == "payload" or "information by payload" in self.assumptions


class Rung(Frozen):
    """One bound and the best that any attack did against it.

    Args:
        kind: which band it lies in.
        statement: name of the bound.
        quantity: of both.
        bound: value of the bound.
        attack: who came nearest, or who beats the bound by most.
        reached: what it reached, a mean over pictures.
        limit: the one-sided limit of that mean, on the bound's side, 99.9 % for all attacks on it together.
        ratio: how far apart they are, at least 1 unless the bound is violated.
        violated: whether the limit lies on the wrong side of the bound.
        n: pictures.
    """

    kind: Literal["certificate", "estimate"]
    statement: str
    quantity: str
    bound: float
    attack: str
    reached: float
    limit: float
    ratio: float | None
    violated: bool
    n: int


class Card(FiledRecord):
    """Everything that is known about what no attacker can beat.

    Args:
        run: the folder of the run.
        observations: releases of one picture that the attacker holds.
        seed: of all that is drawn.
        statements: certificates first.
        sandwich: each bound that an attack can be held against.
        skipped: what could not be said, and why.
        status: ``violated`` if an attack beats a certificate, which means that an assumption does not hold.
        elapsed_s: to compute it.
    """

    file: ClassVar[str] = FILE
    what: ClassVar[str] = "a card"
    command: ClassVar[str] = "certify"

    format: Literal[1] = 1
    run: str
    observations: int
    seed: int
    statements: tuple[StatementRecord, ...]
    sandwich: tuple[Rung, ...]
    skipped: dict[str, str]
    status: Literal["held", "violated"]
    elapsed_s: float

    @property
    def void(self) -> tuple[str, ...]:
        """Names of the estimates that an attack beat: they say nothing."""
        return tuple(rung.statement for rung in self.sandwich if rung.kind == "estimate" and rung.violated)

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the certificates assume, each once."""
        certified = (item for item in self.statements if item.kind == "certificate")
        return tuple(dict.fromkeys(text for item in certified for text in item.assumptions))

    def find(self, name: str, quantity: str | None = None) -> list[StatementRecord]:
        """All statements of this name."""
        return [item for item in self.statements if item.name == name and quantity in (None, item.quantity)]
