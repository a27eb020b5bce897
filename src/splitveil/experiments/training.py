"""Train a run: values in, a folder of plain files out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from splitveil.contracts import Task
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures, Sampling
from splitveil.data.reading import Reading
from splitveil.data.sources import load_source
from splitveil.data.splits import Splits, make_splits
from splitveil.data.tables import ImageTable, Source
from splitveil.errors import InputError
from splitveil.experiments.completing import Prepared, complete, original_of, prepare, rehearse
from splitveil.experiments.devices import Accelerator, check_devices, spread
from splitveil.experiments.environment import describe_environment, pick_device
from splitveil.experiments.folder import EventLog, alone_in, check_apart, check_folder, claim
from splitveil.experiments.projections import project_features
from splitveil.experiments.scoring import as_result, score_model
from splitveil.experiments.starting import mean_score
from splitveil.experiments.storage import save_model
from splitveil.files import write_with
from splitveil.metrics.cost import count_multiply_adds, count_parameters
from splitveil.metrics.payload import payload_bytes
from splitveil.metrics.summary import summarize
from splitveil.modes import device_of, evaluating
from splitveil.noise import SeededNoise
from splitveil.records import PREDICTIONS, PROJECTIONS, Evaluation, RunRecord, ScoreResult
from splitveil.rng import Rng
from splitveil.specs import DataSpec, RunSpec
from splitveil.split_model import SplitModel
from splitveil.training.checkpoint import CheckpointStore
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.ranks import Ranks

__all__ = ["LoadedData", "load_data_spec", "train_run"]


@dataclass(frozen=True, slots=True)
class LoadedData:
    """Pictures of a spec and their splits."""

    source: Source
    splits: Splits


def load_data_spec(spec: DataSpec, observer: Observer | None = None, source: Source | None = None) -> LoadedData:
    """Load and split; a digest in the spec is checked.

    Args:
        spec: which pictures.
        observer: hears of decoding.
        source: pictures that are in memory already, in place of reading them.

    Raises:
        InputError: the pictures are not those the digest was taken from.
    """
    if source is None:
        source = load_source(spec.source, Path(spec.path) if spec.path else None, _reading(spec, observer))
    splits = make_splits(
        source,
        val_share=spec.val_share,
        aux_share=spec.aux_share,
        test_share=spec.test_share,
        limit=spec.limit,
        rng=Rng(spec.seed).child("splits"),
    )
    if spec.digest is not None and spec.digest != splits.digest:
        raise InputError(
            f"expected the pictures with digest {spec.digest[:12]}…, got {splits.digest[:12]}…: "
            "the data has changed since the run was made; restore it, or train again in another --out"
        )
    return LoadedData(source, splits)


def _reading(spec: DataSpec, observer: Observer | None) -> Reading:
    progress = _DecodeProgress(observer) if observer is not None else None
    return Reading(progress, spec.stream, spec.skip_corrupt, spec.size)


class _DecodeProgress:
    """Turns (done, total) counts of a loader into the steps of an observer."""

    def __init__(self, observer: Observer) -> None:
        self.observer, self.seen = observer, 0

    def __call__(self, done: int, total: int) -> None:
        if self.seen == 0:
            self.observer.start("decode", total, 0)
        for _ in range(done - self.seen):
            self.observer.advance("pictures")
        self.seen = done
        if done >= total:
            self.observer.stop()
            self.seen = 0


def train_run(
    spec: RunSpec,
    out: Path,
    *,
    observer: Observer | None = None,
    device: str | None = None,
    trusted: str | None = None,
    data: LoadedData | None = None,
    checkpoint_interval_s: float = 30.0,
    devices: int = 1,
    accelerator: Accelerator | None = None,
) -> RunRecord:
    """Train, or resume, or find finished, the run of a spec.

    Args:
        spec: what to train; open facts of the data are filled in before it is written.
        out: folder of the run; new, empty, or that of the same spec.
        observer: hears of progress.
        device: ``cuda``, ``cpu`` …; the first CUDA device or the CPU by default.
        trusted: a model factory outside splitveil that the user named.
        data: pictures that are loaded already.
        checkpoint_interval_s: the longest time whose work a kill can cost.
        devices: how many train together, a process each, every batch dealt among them.
        accelerator: ``cpu`` or ``gpu``; with one device, in place of `device`.

    Returns:
        The record of the finished run.

    Raises:
        MissingExtraError: a stage of the defense needs a package that is not installed.
        OutputError: `out` holds something else, or another process trains the run there.
        SpecError: the spec cannot be trained.
        TrainingError: the loss is not finite.
    """
    listener, target = observer or Observer(), pick_device(check_devices(devices, accelerator, device))
    check_folder(out)
    check_apart(out, spec.data)
    data = data or load_data_spec(spec.data, listener)
    spec, original = complete(spec, data.source, data.splits, trusted)
    prepared = prepare(spec, data.source, original, trusted)
    if not RunRecord(out).finished:
        rehearse(prepared)
    record = claim(out, spec)
    if record.finished:
        return record
    with alone_in(out):
        if not record.finished:  # by whoever trained it until now
            record.write("env.json", {**describe_environment(target), "processes": devices})
            job = _Job(spec, out, data, trusted, checkpoint_interval_s)
            if devices == 1:
                _train(Ranks(), target, listener, job, prepared)
            else:
                spread(_train, [job], devices=devices, accelerator=accelerator, observer=listener)
    return record


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process of a training has to know."""

    spec: RunSpec
    out: Path
    data: LoadedData
    trusted: str | None
    checkpoint_interval_s: float


def _train(ranks: Ranks, device: torch.device, listener: Observer, job: _Job, run: Prepared | None = None) -> None:
    """Train a claimed run, in this process with the others; the first one writes what comes of it."""
    spec, splits = job.spec, job.data.splits
    if run is None:
        run = prepare(spec, job.data.source, original_of(spec, job.data.source, job.trusted), job.trusted)
    store = CheckpointStore(
        job.out / "state" / "checkpoint.safetensors",
        sha256(json.dumps(spec.identity(), sort_keys=True).encode()).hexdigest(),
        job.checkpoint_interval_s,
    )
    run.task.to(device)
    run.model.to(device).to(memory_format=torch.channels_last)  # a third less time per step, on CPUs too
    val = _lessons(splits.val, device)
    trainer = Trainer(
        run.model,
        run.task,
        run.penalties,
        run.stages,
        spec.training,
        train=_lessons(splits.train, device, spec.training.sampling),
        val=val,
        classes=run.groups,
        rng=Rng(spec.seed).child("train"),
        observer=EventLog(RunRecord(job.out), listener),
        store=store,
        reference=_reference(run, val, ranks),
        ranks=ranks,
    )
    trainer.run()
    if ranks.leads:
        save_model(run.model, run.built, job.out)
        _score(run, job, device, trainer.elapsed_s)
        store.remove()


def _score(run: Prepared, job: _Job, device: torch.device, elapsed_s: float) -> None:
    """Write predictions, points to look at, and evaluation."""
    test, key = _lessons(job.data.splits.test, device), Rng(job.spec.seed).child("evaluate")
    scores = score_model(run.model, run.task, test, key.child("noise")).float().contiguous()
    name = "accuracy" if run.task.score_name == "accuracy" else "score"
    write_with(job.out / PREDICTIONS, lambda temporary: save_file({name: scores}, temporary))
    points = project_features(run.model, test, key.child("projection"))
    write_with(job.out / PROJECTIONS, lambda temporary: save_file(points, temporary))
    found = _evaluate(run.model, run.task, scores, job.data, job.spec, elapsed_s)
    RunRecord(job.out).write("evaluation.json", found)


def _lessons(table: ImageTable, device: torch.device, sampling: Sampling = "uniform") -> Pictures:
    """Pictures with what the task is to learn of each."""
    return hold(table, device, targets=table.targets, sampling=sampling)


def _reference(run: Prepared, val: Pictures, ranks: Ranks) -> float | None:
    """The validation score of the model that a run starts from, where a budget counts from it; alike everywhere."""
    if run.original is None or all(stage.budget is None for stage in run.stages):
        return None
    own = mean_score(run.original.told.to(val.device), run.task, val) if ranks.leads else 0.0
    return float(ranks.total(torch.tensor(own, dtype=torch.float64, device=val.device)))


def _evaluate(
    model: SplitModel, task: Task, scores: Tensor, data: LoadedData, spec: RunSpec, elapsed_s: float
) -> Evaluation:
    rng = Rng(spec.seed).child("evaluate")
    found = as_result(summarize(scores, rng=rng.child("bootstrap"), safer="higher"), unit="", safer="higher")
    return Evaluation(
        score=ScoreResult(name=task.score_name, result=found),
        payload_bytes=payload_bytes(model.codec, model.release_spec),
        edge_parameters=count_parameters(model.head, model.mechanism, model.finish),
        cloud_parameters=count_parameters(model.tail),
        edge_multiply_adds=_edge_multiply_adds(model),
        input_shape=model.input_shape,
        feature=model.feature_spec.to_json(),
        release=model.release_spec.to_json(),
        noise=[{"name": item.name, "shape": list(item.shape), "law": item.law} for item in model.noise_specs],
        class_names=list(data.source.class_names),
        splits=data.splits.sizes,
        elapsed_s=elapsed_s,
    )


def _edge_multiply_adds(model: SplitModel) -> int:
    """Of one picture on the device: head, mechanism, and the last step where there is one."""
    device = device_of(model)
    x = torch.zeros(1, *model.input_shape, device=device)
    with evaluating(model), torch.no_grad():
        noises = model.draw(SeededNoise(Rng(0)), 1, device)
        reply = model.reply(model.simulate(x, noises))
        return count_multiply_adds(lambda: (model.simulate(x, noises), model.finish(reply)))
