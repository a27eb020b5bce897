"""Run the cells of a comparison; what is there already is not run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splitveil.experiments.attacking import attack_key, attack_run
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.compare.workers import Board, Outcome, run_jobs
from splitveil.experiments.folder import check_folder
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec, RunSpec
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["Job", "done", "run_cells"]

Job = tuple[RunSpec, PlugInSpec, ThreatModel, Path, str | None, str | None]
"""Spec, attack, threat, folder, device, trusted factory: all that a worker needs."""


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    threat: ThreatModel,
    workers: int,
    threads: int,
    board: Board,
    device: str | None = None,
    trusted: str | None = None,
) -> list[Outcome]:
    """Train and attack every cell in a folder of its own below `out`.

    Args:
        cells: with different names.
        out: folder of the runs.
        threat: of all attacks.
        workers: processes at a time.
        threads: of torch, in each.
        board: hears of progress.
        device: of all runs.
        trusted: a model factory outside splitveil that the user named.

    Returns:
        The outcomes in the order of the cells; those that were there already count as done.

    Raises:
        OutputError: a folder holds something else; nothing has run then.
    """
    for cell in cells:
        check_folder(out / cell.name)
    jobs: list[tuple[str, Job]] = []
    for cell in cells:
        if done(out / cell.name, cell, threat):
            board.finish(cell.name, None)
        else:
            jobs.append((cell.name, (cell.spec, cell.attack, threat, out / cell.name, device, trusted)))
    outcomes = {item.name: item for item in run_jobs(jobs, _work, workers=workers, threads=threads, board=board)}
    return [outcomes.get(cell.name, Outcome(cell.name)) for cell in cells]


def done(folder: Path, cell: Cell, threat: ThreatModel) -> bool:
    """Whether the run of this cell is finished and attacked."""
    if not (folder / "spec.json").is_file():
        return False
    record = RunRecord(folder)
    if not record.finished:
        return False
    wanted = attack_key(cell.attack, threat, cell.spec.seed)
    return any(attack.key == wanted and (folder / attack.samples).is_file() for attack in record.attacks)


def _work(job: Job, observer: Observer) -> None:
    spec, attack, threat, folder, device, trusted = job
    data = load_data_spec(spec.data, observer)
    record = train_run(spec, folder, observer=observer, device=device, trusted=trusted, data=data)
    attack_run(
        record, attack, threat=threat, seed=spec.seed, observer=observer, device=device, trusted=trusted, data=data
    )
