"""What a worker of a cluster does with a job, and what goes to and fro."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitveil.errors import InputError, SplitveilError
from splitveil.experiments.engines.jobs import Desk, Job, Sender, borrowed
from splitveil.experiments.engines.post import Line
from splitveil.experiments.engines.shipping import Files, Parcel, Pictures, Token, pack, store
from splitveil.experiments.environment import source_digest

__all__ = ["Reply", "Task", "perform"]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a task ended; without files it worked in the folder itself, or asks for what lies there."""

    error: str | None = None
    asks: bool = False
    files: Files | None = None
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told beside its job."""

    job: Job
    token: Token
    parcel: Parcel | None
    threads: int
    device: str | None
    source: str


def perform(task: Task, pictures: Pictures, post: Any) -> Reply:
    """What a worker does."""
    import torch

    torch.set_num_threads(task.threads)
    sender = Sender(Line(post, task.job.name))
    try:
        if source_digest() != task.source:
            raise InputError(
                "expected the splitveil of the machine that asks on every worker, got another one: install the same"
            )
        reply = _in_place(task, pictures, sender)
        sender.flush()
    except SplitveilError as error:
        return Reply(str(error))
    return reply


def _in_place(task: Task, pictures: Pictures, sender: Sender) -> Reply:
    """In the folder of the run where that is here, else in one of ours whose files go back."""
    job = task.job
    places = [folder.parent for folder in (job.folder, job.beside) if folder is not None]
    if all(map(task.token.lies_in, places)):
        return Reply(_work(task, pictures, sender, job.folder, job.beside))
    if task.parcel is None:
        return Reply(asks=True)
    with tempfile.TemporaryDirectory(prefix="splitveil-") as scratch:
        folder, beside = Path(scratch) / job.folder.name, job.beside and Path(scratch) / job.folder.name
        store(folder, task.parcel.folder)
        if task.parcel.beside is not None:
            beside = Path(scratch) / "beside" / "run"
            store(beside, task.parcel.beside)
        error = _work(task, pictures, sender, folder, beside)
        files = pack(folder)
    changed = {name: content for name, content in files.items() if task.parcel.folder.get(name) != content}
    return Reply(error, files=changed, removed=tuple(sorted(set(task.parcel.folder) - set(files))))


def _work(task: Task, pictures: Pictures, sender: Sender, folder: Path, beside: Path | None) -> str | None:
    """Do the job; the text of its error, for what it wrote before goes back too."""
    try:
        with borrowed(beside, folder) as lent:
            task.job.work(Desk(folder, pictures.unpack(), sender, task.device, lent))
    except SplitveilError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
