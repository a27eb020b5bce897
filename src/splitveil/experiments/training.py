"""Train a run: values in, a folder of plain files out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from splitveil.contracts import Stage, Task
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures, Sampling
from splitveil.data.reading import Reading
from splitveil.data.sources import load_source
from splitveil.data.splits import Splits, make_splits
from splitveil.data.tables import ImageTable, Source
from splitveil.errors import InputError
from splitveil.experiments.building import build_run, check_fit
from splitveil.experiments.completing import complete, parts_of, planned
from splitveil.experiments.environment import describe_environment, pick_device
from splitveil.experiments.folder import EventLog, check_apart, check_folder, claim
from splitveil.experiments.scoring import as_result, score_model
from splitveil.experiments.starting import Original, mean_score
from splitveil.experiments.storage import save_model
from splitveil.files import write_with
from splitveil.metrics.cost import count_multiply_adds, count_parameters
from splitveil.metrics.payload import payload_bytes
from splitveil.metrics.summary import summarize
from splitveil.modes import evaluating
from splitveil.noise import SeededNoise
from splitveil.records import PREDICTIONS, Evaluation, RunRecord, ScoreResult
from splitveil.rng import Rng
from splitveil.specs import DataSpec, RunSpec
from splitveil.split_model import SplitModel
from splitveil.training.checkpoint import CheckpointStore
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.tasks import make_task

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

    Returns:
        The record of the finished run.

    Raises:
        OutputError: `out` holds something else.
        TrainingError: the loss is not finite.
    """
    listener, target = observer or Observer(), pick_device(device)
    check_folder(out)
    check_apart(out, spec.data)
    data = data or load_data_spec(spec.data, listener)
    spec, original = complete(spec, data.source, data.splits, trusted)
    task = make_task(spec.learns)
    groups = task.count_groups(data.source.classes)
    built = build_run(spec, groups, trusted)[0]  # as whoever loads the run builds it
    model, penalties, defense = build_run(spec, groups, trusted, parts_of(original))
    check_fit(model, data.source, task)
    stages = planned(spec, defense.stages(), model, original)
    record = claim(out, spec)
    if record.finished:
        return record
    record.write("env.json", describe_environment(target))
    store = CheckpointStore(
        out / "state" / "checkpoint.safetensors",
        sha256(json.dumps(spec.identity(), sort_keys=True).encode()).hexdigest(),
        checkpoint_interval_s,
    )
    started = time.monotonic()
    if task.needs_original and original is not None:
        task.attach(original.told)
    task.to(target)
    model.to(target).to(memory_format=torch.channels_last)  # a third less time per step, on CPUs too
    val = _lessons(data.splits.val, target)
    trainer = Trainer(
        model,
        task,
        penalties,
        stages,
        spec.training,
        train=_lessons(data.splits.train, target, spec.training.sampling),
        val=val,
        classes=groups,
        rng=Rng(spec.seed).child("train"),
        observer=EventLog(record, listener),
        store=store,
        reference=_reference(original, stages, task, val),
    )
    trainer.run()
    save_model(model, built, out)
    test = _lessons(data.splits.test, target)
    scores = score_model(model, task, test, Rng(spec.seed).child("evaluate", "noise")).float().contiguous()
    name = "accuracy" if task.score_name == "accuracy" else "score"
    write_with(out / PREDICTIONS, lambda temporary: save_file({name: scores}, temporary))
    record.write("evaluation.json", _evaluate(model, task, scores, data, spec, time.monotonic() - started))
    store.remove()
    return record


def _lessons(table: ImageTable, device: torch.device, sampling: Sampling = "uniform") -> Pictures:
    """Pictures with what the task is to learn of each."""
    return hold(table, device, targets=table.targets, sampling=sampling)


def _reference(original: Original | None, stages: Sequence[Stage], task: Task, val: Pictures) -> float | None:
    """The validation score of the model that a run starts from, where a budget counts from it."""
    if original is None or all(stage.budget is None for stage in stages):
        return None
    return mean_score(original.told.to(val.device), task, val)


def _evaluate(
    model: SplitModel, task: Task, scores: Tensor, data: LoadedData, spec: RunSpec, elapsed_s: float
) -> Evaluation:
    rng = Rng(spec.seed).child("evaluate")
    found = as_result(summarize(scores, rng=rng.child("bootstrap"), safer="higher"), unit="", safer="higher")
    classifies = task.score_name == "accuracy"
    return Evaluation(
        accuracy=found if classifies else None,
        score=None if classifies else ScoreResult(name=task.score_name, result=found),
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
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x = torch.zeros(1, *model.input_shape, device=device)
    with evaluating(model), torch.no_grad():
        noises = model.draw(SeededNoise(Rng(0)), 1, device)
        reply = model.reply(model.simulate(x, noises))
        return count_multiply_adds(lambda: (model.simulate(x, noises), model.finish(reply)))
