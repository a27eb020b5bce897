"""Jobs on a Ray cluster, or on a Ray instance of this machine: resources per run, and another try where one dies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from splitveil.errors import MissingDataError, MissingExtraError, SpecError, SplitveilError
from splitveil.experiments.engines.jobs import Board, Job, Outcome, deliver
from splitveil.experiments.engines.post import Post
from splitveil.experiments.engines.remote import Reply, Task, perform
from splitveil.experiments.engines.shipping import Parcel, Pictures, Token, marked, pack, store
from splitveil.experiments.engines.workers import available_cpus
from splitveil.experiments.environment import source_digest
from splitveil.experiments.training import load_data_spec

__all__ = ["Cluster"]

_POLL_S = 0.2
_LAST_WORDS_S = 5.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""An instance of ours tells nobody that it runs, and warns of no change of its defaults."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Jobs as tasks of Ray.

    The pictures of a spec are read here, once, and shared through Ray's object store: each machine gets them once. A
    worker that finds the folder of its run works in it; for one that does not, the files travel. Workers must hold the
    same splitveil. Ray trusts everybody who can reach a cluster: keep it in a network of your own.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port`` of a cluster; None for the one that this process is
            connected to, else for an instance on this machine that ends with the jobs.
        cpus_per_run: cores for each job, which are its torch threads too.
        gpus_per_run: GPUs for each job, or a share of one; None for one where the cluster has any.
        retries: how often a job is tried again whose worker died.
        device: of all jobs; the first of the job's GPUs or the CPU by default.

    Raises:
        MissingExtraError: Ray is not installed.
        SpecError: an argument out of range.
    """

    address: str | None = None
    cpus_per_run: int = 1
    gpus_per_run: float | None = None
    retries: int = 2
    device: str | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError("ray", "ray", "the engine 'ray'")
        if self.cpus_per_run < 1 or self.retries < 0 or (self.gpus_per_run or 0) < 0:
            raise SpecError(
                "expected cpus_per_run >= 1, gpus_per_run >= 0 and retries >= 0, got "
                f"{self.cpus_per_run}, {self.gpus_per_run} and {self.retries}"
            )

    def run(self, jobs: Sequence[Job], board: Board, *, total: int) -> list[Outcome]:
        """See `Engine`.

        Raises:
            MissingDataError: there is no cluster at the address.
            SpecError: the instance on this machine can never give a job what it is to get.
        """
        if not jobs:
            return []
        ray = import_module("ray")
        jobs = [_anywhere(job) for job in jobs]
        with _connected(ray, self.address), marked(_places(jobs)) as token:
            dispatch = _Dispatch(ray, self, board, token)
            try:
                return dispatch.run(jobs)
            finally:
                dispatch.stop()


def _anywhere(job: Job) -> Job:
    """The same job with whole paths: a worker has a folder of its own."""
    beside = job.beside.resolve() if job.beside is not None else None
    return replace(job, folder=job.folder.resolve(), beside=beside)


def _places(jobs: Sequence[Job]) -> set[Path]:
    """Where their folders lie."""
    return {folder.parent for job in jobs for folder in (job.folder, job.beside) if folder is not None}


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Within a cluster; a connection that is there already stays as it is."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            for name, value in _QUIET.items():
                os.environ.setdefault(name, value)
            ray.init(address="local", num_cpus=available_cpus(), include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingDataError(
            f"expected a Ray cluster at '{address or 'this machine'}', got none: {reason}; start one with  "
            "ray start --head, or leave the address out to run here"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(slots=True)
class _Sent:
    job: Job
    deaths: int = 0
    parcel: Parcel | None = None


class _Dispatch:
    """Sends jobs to workers and takes in what comes back."""

    def __init__(self, ray: Any, engine: Cluster, board: Board, token: Token) -> None:
        self.ray, self.engine, self.board, self.token = ray, engine, board, token
        self.gpus = self._gpus()
        # without a GPU of its own a job must not take one that it sees
        self.device = engine.device or (None if self.gpus else "cpu")
        # we try again ourselves, so that the user hears of it
        resources = {"num_cpus": engine.cpus_per_run, "num_gpus": self.gpus}
        self.perform = ray.remote(**resources, max_retries=0)(perform)
        self.post = ray.remote(Post).options(num_cpus=0, max_restarts=-1).remote()
        self.said = self.post.take.remote()
        self.running: dict[Any, _Sent] = {}
        self.pictures: dict[str, Any] = {}
        self.source = source_digest()

    def _gpus(self) -> float:
        if self.engine.gpus_per_run is not None:
            return self.engine.gpus_per_run
        on_cpu = self.engine.device is not None and not self.engine.device.startswith("cuda")
        return 1.0 if not on_cpu and self.ray.cluster_resources().get("GPU", 0) else 0.0

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All jobs; Ray decides where and when."""
        self._check_room(jobs[0])
        for job in jobs:
            self._send(_Sent(job))
        outcomes: dict[str, Outcome] = {}
        while self.running:
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_POLL_S)
            self._listen(0)
            for task in ready:
                sent = self.running[task]
                outcome = self._take_in(task, sent)
                del self.running[task]
                if outcome is None:
                    self._send(sent)
                else:
                    outcomes[sent.job.name] = outcome
                    self.board.finish(sent.job.name, outcome.error)
        return [outcomes[job.name] for job in jobs]

    def _check_room(self, job: Job) -> None:
        """Say so at once where no machine of today can run a job."""
        wanted = {"CPU": float(self.engine.cpus_per_run), "GPU": self.gpus}
        rooms = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(all(room.get(name, 0.0) >= amount for name, amount in wanted.items()) for room in rooms):
            return
        asked = f"{self.engine.cpus_per_run} CPUs and {self.gpus:g} GPUs for each run"
        if self.engine.address is None:
            most = {name: max((room.get(name, 0.0) for room in rooms), default=0.0) for name in wanted}
            raise SpecError(
                f"expected a machine with {asked}, got at most {most['CPU']:g} and {most['GPU']:g}: "
                "lower cpus_per_run or gpus_per_run"
            )
        text = f"no machine of the cluster has {asked}: they wait for one to join"
        self.board.event(job.name, {"event": "warning", "text": text})

    def _send(self, sent: _Sent) -> None:
        job = sent.job
        task = Task(job, self.token, sent.parcel, self.engine.cpus_per_run, self.device, self.source)
        self.running[self.perform.options(name=job.name).remote(task, self._pictures(job), self.post)] = sent

    def _pictures(self, job: Job) -> Any:
        """In the object store; read when the first job needs them."""
        key = job.data.model_dump_json()
        if key not in self.pictures:
            self.pictures[key] = self.ray.put(Pictures.of(load_data_spec(job.data)))
        return self.pictures[key]

    def _take_in(self, task: Any, sent: _Sent) -> Outcome | None:
        """How a job ended; None where it is to be sent again."""
        job, errors = sent.job, self.ray.exceptions
        try:
            reply: Reply = self.ray.get(task)
            self._listen(_LAST_WORDS_S)
            if reply.asks:
                second = pack(job.beside) if job.beside not in (None, job.folder) else None
                sent.parcel = Parcel(pack(job.folder), second)
                return None
            if reply.files is not None:
                store(job.folder, reply.files, reply.removed)
        except (errors.RayTaskError, errors.TaskUnschedulableError, errors.TaskCancelledError) as error:
            return Outcome(job.name, str(getattr(error, "cause", None) or error).strip().splitlines()[-1])
        except errors.RayError as error:  # a worker, or its machine, is gone
            return self._after_death(sent, str(error).strip().splitlines()[0])
        except SplitveilError as error:
            return Outcome(job.name, str(error))
        return Outcome(job.name, reply.error)

    def _after_death(self, sent: _Sent, reason: str) -> Outcome | None:
        sent.deaths += 1
        if sent.deaths > self.engine.retries:
            return Outcome(sent.job.name, f"its worker died {sent.deaths} times; out of memory, or killed: {reason}")
        text = f"its worker died; try {sent.deaths + 1} of {self.engine.retries + 1} begins"
        self.board.event(sent.job.name, {"event": "warning", "text": text})
        return None

    def _listen(self, patience_s: float) -> None:
        """Pass on what jobs said."""
        errors = self.ray.exceptions
        try:
            said = self.ray.get(self.said, timeout=patience_s)
        except errors.GetTimeoutError:
            return
        except errors.RayError:  # the machine that kept it is gone: the post begins anew elsewhere
            said = []
        self.said = self.post.take.remote()
        names = {sent.job.name for sent in self.running.values()}
        for name, message in said:
            if name in names:
                deliver(self.board, name, message)

    def stop(self) -> None:
        """End what still runs; it goes on from its checkpoint next time."""
        for task in self.running:
            self.ray.cancel(task, force=True)
        self.ray.kill(self.post)
