"""An audit from a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitveil.audit.record import AuditRecord
from splitveil.audit.run import audit_run, find_undefended
from splitveil.errors import SpecError
from splitveil.experiments.api import default_recipe, reload
from splitveil.experiments.recipes import load_recipe
from splitveil.records import RunRecord
from splitveil.threats import ThreatModel

__all__ = ["audit"]


def audit(
    run: RunRecord | str | Path,
    *,
    suite: str = "standard",
    threat: ThreatModel | None = None,
    undefended: RunRecord | str | Path | None = None,
    recipe: str | None = None,
    effort: int = 1,
    seed: int = 0,
    device: str | None = None,
    model: str | None = None,
    lpips_weights: str | Path | None = None,
    data: Any = None,
) -> AuditRecord:
    """Try every attack of a suite that a threat model grants; the worst over all of them counts.

    Args:
        run: a finished run, or its folder.
        suite: ``quick``, ``standard`` or ``strong``.
        threat: white box by default.
        undefended: the run of the same data and model without a defense, to prove the attacks on.
        recipe: the scale of the attacks; ``tiny`` for the digits, else ``quick``.
        effort: times the recipe's epochs, for what attackers train; for where one was still learning.
        seed: of the attacks.
        device: ``cuda``, ``cpu`` …
        model: a factory outside splitveil, as a sign that its code is trusted.
        lpips_weights: a safetensors file to measure LPIPS with, see `splitveil.metrics.lpips`.
        data: what was passed to `train`, if that was no name.

    Raises:
        SpecError: the run has not finished, or `undefended` is another model or other data.
    """
    record = _open(run)
    twin = None
    if undefended is not None:
        twin = find_undefended(record, [_open(undefended)])
        if twin is None:
            raise SpecError(
                f"expected a finished run of defense 'none' with the data and the model of '{record.path}', got "
                f"'{_open(undefended).path}': train one, or leave undefended out"
            )
    return audit_run(
        record,
        suite=suite,
        recipe=load_recipe(recipe or default_recipe(record.spec.data.source)),
        effort=effort,
        threat=threat,
        seed=seed,
        undefended=twin,
        device=device,
        trusted=model,
        lpips_weights=None if lpips_weights is None else Path(lpips_weights),
        data=None if data is None else reload(record, data),
    )


def _open(run: RunRecord | str | Path) -> RunRecord:
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    if not record.finished:
        raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    return record
