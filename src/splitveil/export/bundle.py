"""From a run to a bundle: graphs, what they measure, and the passport that seals them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitveil.codecs import Float32Codec, QuantisedCodec
from splitveil.contracts import Task
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.defenses.ensembler import SecretSelector
from splitveil.errors import CheckFailedError, SpecError, UnknownNameError, UsageError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.completing import original_of
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.export.facts import file_facts, model_facts, passport_name, release_range, run_facts, validity
from splitveil.export.folders import check_new_folder, write_folder
from splitveil.export.graph import export_cloud, export_edge, export_finish
from splitveil.export.measuring import MOST_BEYOND, Measured, edge_limit, measure
from splitveil.export.precision import PRECISIONS, Feeds, Precision, lower_precision
from splitveil.files import write_bytes
from splitveil.noise import SeededNoise
from splitveil.records import RunRecord
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.observer import Observer
from splitveil.training.tasks import make_task
from splitveil_edge.passport import CLOUD, EDGE, FINISH, PASSPORT, SIGNATURE, Passport, parse_passport
from splitveil_edge.reading import dump_json
from splitveil_edge.signing import read_key_file, sign

__all__ = ["Exported", "cautions", "evaluation_rng", "export"]

_CALIBRATION = 512
_BATCH = 64
_GUESSED = 2**48  # seeds that can be tried one by one


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written.

    Args:
        path: its folder.
        passport: its passport.
        measured: what its graphs do, against the model.
        cautions: what stands between the bundle and a deployment, in sentences.
    """

    path: Path
    passport: Passport
    measured: Measured
    cautions: tuple[str, ...] = ()


def export(
    run: RunRecord | str | Path,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    key: bytes | str | Path | None = None,
    expires_days: float | None = None,
    name: str | None = None,
    wire_bits: int | None = None,
    model: str | None = None,
    observer: Observer | None = None,
) -> Exported:
    """Write the bundle of a finished run: ``edge.onnx``, ``cloud.onnx``, ``finish.onnx`` where there is one, passport.

    The graphs are run on the test pictures, and what they measure stands in the passport, beside the run's card and the
    summary of its audit.

    Args:
        run: a finished run, or its folder.
        out: folder; new or empty. It is written whole or not at all.
        precision: ``fp32``, ``fp16`` or ``int8``; clip and noise stay float32 in each.
        key: private, PEM or its file; the passport is signed with it.
        expires_days: from now; None for never.
        name: of the model on servers; the run's by default.
        wire_bits: quantise releases to so many bits on the wire, where the run does not yet; what is done to a release
            afterwards tells nothing more about the picture.
        model: a factory outside splitveil, as a sign that its code is trusted.
        observer: hears of progress.

    Raises:
        SpecError: the run has not finished, or its certificates are violated.
        OutputError: `out` holds something.
        CheckFailedError: fp32 graphs that are not the model; nothing is written.
        MissingExtraError: onnx, onnxscript, onnxruntime or, with a key, cryptography is not installed.
    """
    record = run if isinstance(run, RunRecord) else RunRecord.open(Path(run))
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    if not record.finished:
        raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    check_new_folder(Path(out))
    private = key if isinstance(key, bytes) or key is None else read_key_file(Path(key))
    facts = {
        "format": 1,
        **validity(expires_days),
        **run_facts(record),
        "name": passport_name(name, record),
        "precision": {"edge": precision, "cloud": precision},
    }
    data = load_data_spec(record.spec.data, observer)
    split = _framed(load_model(record, data, trusted=model).to(memory_format=torch.contiguous_format), data, wire_bits)
    done: list[Exported] = []
    task, rng = task_of(record, data, model), evaluation_rng(record)

    def fill(folder: Path) -> None:
        done.append(_fill(folder, split, data, facts, precision, private, rng, task, observer))

    path = write_folder(Path(out), fill)
    return replace(done[0], path=path, cautions=cautions(split, record.spec.seed))


def cautions(model: SplitModel, seed: int) -> tuple[str, ...]:
    """What stands between a model that was trained with this seed and a deployment."""
    if not isinstance(model.finish, SecretSelector) or seed >= _GUESSED:
        return ()
    return (
        f"what the device keeps secret follows from the run's seed, and {seed} can be guessed: train with one that "
        f"nobody knows, such as --seed {secrets.randbits(62)}, and keep the run's folder from the cloud",
    )


def evaluation_rng(record: RunRecord) -> Rng:
    """Key of the noise that a run was evaluated with, so that accuracies are of the same releases."""
    return Rng(record.spec.seed).child("evaluate", "noise")


def task_of(record: RunRecord, data: LoadedData, trusted: str | None = None) -> Task:
    """What a run has learned, with the model that it has learned from where there is one."""
    task = make_task(record.spec.learns)
    original = original_of(record.spec, data.source, trusted) if task.needs_original else None
    return task if original is None else task.attach(original.told)


def _fill(
    folder: Path,
    model: SplitModel,
    data: LoadedData,
    facts: dict[str, Any],
    precision: Precision,
    key: bytes | None,
    rng: Rng,
    task: Task,
    observer: Observer | None,
) -> Exported:
    export_edge(model, folder / EDGE)
    export_cloud(model, folder / CLOUD)
    export_finish(model, folder / FINISH)
    edge, cloud = _calibration(model, hold(data.splits.train))
    lower_precision(folder / EDGE, precision, [spec.name for spec in model.noise_specs], edge)
    lower_precision(folder / CLOUD, precision, None, cloud)
    values = [batch["r"] for batch in cloud]
    facts = {
        **facts,
        **model_facts(model, *_shapes(model)),
        "files": file_facts(folder),
        "release_range": release_range(min(float(r.min()) for r in values), max(float(r.max()) for r in values)),
    }
    draft = parse_passport(dump_json({**facts, "parity": {}}))
    test = data.splits.test
    measured = measure(model, folder, draft, hold(test, targets=test.targets), rng, task, observer)
    _check(measured, draft, precision)
    body = dump_json({**facts, "parity": measured.to_json()})
    passport = parse_passport(body)
    write_bytes(folder / PASSPORT, body)
    if key is not None:
        write_bytes(folder / SIGNATURE, sign(body, key).to_bytes())
    return Exported(folder, passport, measured)


def _framed(model: SplitModel, data: LoadedData, bits: int | None) -> SplitModel:
    """The model with its releases quantised, where that is asked for."""
    if bits is None:
        return model
    if not isinstance(model.codec, Float32Codec):
        raise UsageError("expected a run that sends float32 beside --wire-bits, got one that quantises: leave it out")
    limits = model.release_spec.range
    if limits is None:
        _, cloud = _calibration(model, hold(data.splits.train))
        limits = min(float(batch["r"].min()) for batch in cloud), max(float(batch["r"].max()) for batch in cloud)
    return model.with_mechanism(model.mechanism, QuantisedCodec(bits, *limits)).eval()


def _calibration(model: SplitModel, pictures: Pictures) -> tuple[Feeds, Feeds]:
    """Inputs of edge and cloud for the first training pictures, in batches."""
    edge: list[dict[str, Any]] = []
    cloud: list[dict[str, Any]] = []
    rng, start = Rng(0).child("calibration"), 0
    for x in _first(pictures, _CALIBRATION):
        source = SeededNoise(rng, start)
        noises = model.draw(source, len(x), x.device)
        r = model.release(x, noise=source)
        named = zip((spec.name for spec in model.noise_specs), noises, strict=True)
        edge.append({"x": x.numpy(), **{name: noise.numpy() for name, noise in named}})
        cloud.append({"r": np.ascontiguousarray(r.numpy())})
        start += len(x)
    return edge, cloud


def _first(pictures: Pictures, most: int) -> Iterator[torch.Tensor]:
    """The first pictures in batches."""
    for start in range(0, min(most, len(pictures)), _BATCH):
        yield pictures.get(torch.arange(start, min(start + _BATCH, most, len(pictures))))[0]


def _shapes(model: SplitModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of one reply and one output."""
    r = model.release(torch.zeros(1, *model.input_shape), noise=SeededNoise(Rng(0)))
    with torch.no_grad():
        reply = model.reply(r)
    return tuple(reply.shape[1:]), tuple(model.predict(r).shape[1:])


def _check(measured: Measured, passport: Passport, precision: Precision) -> None:
    """Raise `CheckFailedError` where the graphs are not the model."""
    parts = [part for part in (measured.edge, measured.cloud, measured.finish) if part is not None]
    if not all(math.isfinite(part.largest) for part in parts):
        raise CheckFailedError(
            f"expected finite values from the {precision} graphs, got NaN or infinity: export it as fp32"
        )
    if precision == "fp32" and any(part.beyond > MOST_BEYOND for part in parts):
        raise CheckFailedError(
            f"expected graphs within {edge_limit(passport, measured.edge):.2g} of the model, got differences up to "
            f"{measured.edge.largest:.3g} in releases and {measured.cloud.largest:.3g} in replies: check the versions "
            "of torch and onnxruntime"
        )
