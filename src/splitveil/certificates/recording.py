"""From a statement to its record: apart from the card, which a report reads without torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from splitveil.bounds import Certificate, Estimate, Statement
from splitveil.certificates.card import StatementRecord

__all__ = ["record_of"]


def record_of(statement: Statement) -> StatementRecord:
    """As it is written.

    Raises:
        TypeError: neither a certificate nor an estimate.
    """
    if not isinstance(statement, Certificate | Estimate):
        raise TypeError(f"expected a Certificate or an Estimate, got {type(statement).__name__}")
    kind: Literal["certificate", "estimate"] = "certificate" if isinstance(statement, Certificate) else "estimate"
    return StatementRecord(kind=kind, **asdict(statement))
