"""Certificates from a few words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitveil.certificates.card import Card
from splitveil.certificates.run import GALLERIES, certify_run
from splitveil.certificates.slopes import SlopeSettings
from splitveil.experiments.api import reload
from splitveil.records import RunRecord

__all__ = ["certify"]


def certify(
    run: RunRecord | str | Path,
    *,
    observations: int = 1,
    galleries: Sequence[int] = GALLERIES,
    fisher: bool = False,
    entropy_nats: float | None = None,
    seed: int = 0,
    device: str | None = None,
    model: str | None = None,
    data: Any = None,
) -> Card:
    """What no attacker can beat: certificates, estimates, and the run's attacks between them.

    Args:
        run: a finished run, or its folder; ``certificates.json`` is written into it.
        observations: fresh releases of one picture that the attacker holds.
        galleries: numbers of pictures that an attacker chooses among.
        fisher: bounds from slopes too; they take minutes.
        entropy_nats: a lower bound on the entropy of dithered pictures that you vouch for: it makes the bound on the
            error a certificate.
        seed: of all that is drawn.
        device: ``cuda``, ``cpu`` …
        model: a factory outside splitveil, as a sign that its code is trusted.
        data: what was passed to `train`, if that was no name.

    Raises:
        SpecError: the run has not finished, or a value is out of range.
    """
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    return certify_run(
        record,
        observations=observations,
        galleries=galleries,
        slopes=SlopeSettings() if fisher else None,
        entropy_nats=entropy_nats,
        seed=seed,
        device=device,
        trusted=model,
        data=None if data is None else reload(record, data),
    )
