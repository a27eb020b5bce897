"""Run the cells of a comparison; what is there already is not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitveil.experiments.attacking import attack_key, attack_run, stored_attack
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.engines.jobs import Board, Desk, Engine, Job, Outcome
from splitveil.experiments.folder import check_folder
from splitveil.experiments.training import train_run
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec, RunSpec
from splitveil.threats import ThreatModel

__all__ = ["done", "run_cells"]


@dataclass(frozen=True, slots=True)
class _TrainAndAttack:
    """What is done with a cell: one that was stopped goes on."""

    spec: RunSpec
    attack: PlugInSpec
    threat: ThreatModel
    trusted: str | None

    def __call__(self, desk: Desk) -> None:
        common: dict[str, Any] = {
            "observer": desk.observer,
            "device": desk.device,
            "trusted": self.trusted,
            "data": desk.data,
        }
        record = train_run(self.spec, desk.folder, **common)
        attack_run(record, self.attack, threat=self.threat, seed=self.spec.seed, **common)


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    threat: ThreatModel,
    engine: Engine,
    board: Board,
    trusted: str | None = None,
) -> list[Outcome]:
    """Train and attack every cell in a folder of its own below `out`.

    Args:
        cells: with different names.
        out: folder of the runs.
        threat: of all attacks.
        engine: runs them.
        board: hears of progress.
        trusted: a model factory outside splitveil that the user named.

    Returns:
        The outcomes in the order of the cells; those that were there already count as done.

    Raises:
        OutputError: a folder holds something else; nothing has run then.
    """
    for cell in cells:
        check_folder(out / cell.name)
    jobs: list[Job] = []
    for cell in cells:
        if done(out / cell.name, cell, threat):
            board.finish(cell.name, None)
        else:
            work = _TrainAndAttack(cell.spec, cell.attack, threat, trusted)
            jobs.append(Job(cell.name, out / cell.name, cell.spec.data, work))
    outcomes = {item.name: item for item in engine.run(jobs, board, total=len(cells))} if jobs else {}
    return [outcomes.get(cell.name, Outcome(cell.name)) for cell in cells]


def done(folder: Path, cell: Cell, threat: ThreatModel) -> bool:
    """Whether the run of this cell is finished and attacked."""
    if not (folder / "spec.json").is_file():
        return False
    record = RunRecord(folder)
    if not record.finished:
        return False
    return stored_attack(record, attack_key(cell.attack, threat, cell.spec.seed)) is not None
