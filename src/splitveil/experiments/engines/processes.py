"""The engine of this machine: a process for each job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.errors import SpecError
from splitveil.experiments.engines.jobs import Board, Desk, Job, Outcome, borrowed
from splitveil.experiments.engines.workers import run_jobs, share_cores
from splitveil.experiments.environment import pick_device
from splitveil.experiments.training import load_data_spec
from splitveil.training.observer import Observer

__all__ = ["Processes"]


@dataclass(frozen=True, slots=True)
class Processes:
    """Jobs in processes of this machine.

    Args:
        workers: processes at a time; one per core on the CPU by default, one on a GPU.
        device: of all jobs; the first CUDA device or the CPU by default.

    Raises:
        InputError: there is no such device here.
        SpecError: no process at a time.
    """

    workers: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        pick_device(self.device)
        if self.workers is not None and self.workers < 1:
            raise SpecError(f"expected at least 1 process at a time, got {self.workers}")

    def run(self, jobs: Sequence[Job], board: Board, *, total: int) -> list[Outcome]:
        """See `Engine`."""
        gpu = pick_device(self.device).type == "cuda"
        workers, threads = share_cores(total, gpu=gpu, workers=self.workers)
        work = [(job.name, (job, self.device)) for job in jobs]
        return run_jobs(work, _do, workers=workers, threads=threads, board=board)


def _do(task: tuple[Job, str | None], observer: Observer) -> None:
    """A job in its own folder, with pictures that its process reads itself."""
    job, device = task
    data = load_data_spec(job.data, observer)
    with borrowed(job.beside, job.folder) as beside:
        job.work(Desk(job.folder, data, observer, device, beside))
