"""Audits of many runs, each a job of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splitveil.audit.record import AuditRecord
from splitveil.audit.run import audit_run, find_undefended
from splitveil.errors import SpecError
from splitveil.experiments.api import default_recipe
from splitveil.experiments.engines.jobs import Board, Desk, Engine, Job
from splitveil.experiments.recipes import load_recipe
from splitveil.records import RunRecord
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["audit_runs"]


@dataclass(frozen=True, slots=True)
class _Audit:
    suite: str
    recipe: str
    effort: int
    threat: ThreatModel | None
    seed: int
    subject: str
    trusted: str | None
    lpips_weights: Path | None

    def __call__(self, desk: Desk) -> None:
        audit_run(
            RunRecord(desk.folder),
            suite=self.suite,
            recipe=load_recipe(self.recipe),
            effort=self.effort,
            threat=self.threat,
            seed=self.seed,
            undefended=RunRecord(desk.beside) if desk.beside is not None else None,
            observe=lambda part: _Part(part, desk.observer),
            device=desk.device,
            trusted=self.trusted,
            lpips_weights=self.lpips_weights,
            data=desk.data,
            subject=self.subject,
        )


class _Part(Observer):
    """Says which attack it is that begins."""

    def __init__(self, name: str, listener: Observer) -> None:
        self.name, self.listener = name, listener

    def start(self, what: str, total: int, done: int) -> None:
        self.listener.start(self.name, total, done)

    def advance(self, text: str) -> None:
        self.listener.advance(text)

    def event(self, event: dict[str, object]) -> None:
        self.listener.event(event)

    def stop(self) -> None:
        self.listener.stop()


def audit_runs(
    records: Sequence[RunRecord],
    *,
    engine: Engine,
    board: Board,
    suite: str = "standard",
    recipe: str | None = None,
    effort: int = 1,
    threat: ThreatModel | None = None,
    seed: int = 0,
    beside: Sequence[RunRecord] | None = None,
    trusted: str | None = None,
    lpips_weights: Path | None = None,
) -> tuple[list[AuditRecord], dict[str, str]]:
    """Audit finished runs on an engine; each ``audit.json`` lies in the folder of its run.

    Args:
        records: the runs.
        engine: runs the audits.
        board: hears of progress.
        suite: see `audit_run`.
        recipe: the scale of the attacks; ``tiny`` for the digits, else ``quick``.
        effort: see `audit_run`.
        threat: see `audit_run`.
        seed: see `audit_run`.
        beside: runs among which the undefended ones are; the runs themselves by default.
        trusted: see `audit_run`.
        lpips_weights: see `audit_run`; the workers read it.

    Returns:
        The audits that ended, in order, and the errors of the others by name.

    Raises:
        SpecError: a run has not finished.
    """
    for record in records:
        if not record.finished:
            raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    jobs = []
    for record in records:
        undefended = find_undefended(record, records if beside is None else beside)
        scale = recipe or default_recipe(record.spec.data.source)
        work = _Audit(suite, scale, effort, threat, seed, str(record.path), trusted, lpips_weights)
        jobs.append(Job(str(record.path), record.path, record.spec.data, work, undefended.path if undefended else None))
    outcomes = engine.run(jobs, board, total=len(jobs))
    failed = {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}
    return [AuditRecord.read(record.path) for record in records if str(record.path) not in failed], failed
