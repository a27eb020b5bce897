"""What the live page needs beside a bundle: attackers to look through, sample pictures, a certificate by noise."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splitveil import __version__
from splitveil.attacks.inverters import DecoderInverter, FittedInverter
from splitveil.attacks.storage import load_inverter
from splitveil.bounds import capacity_box
from splitveil.certificates.channel import Channel
from splitveil.combining import combination_name
from splitveil.data.holding import hold
from splitveil.data.rows import look_up
from splitveil.errors import CheckFailedError, InputError, MissingDataError, SpecError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.export.bundle import evaluation_rng
from splitveil.export.folders import write_folder
from splitveil.export.graph import export_edge, export_inverter
from splitveil.export.measuring import measure_edge
from splitveil.export.page_seals import LIVE, PAGE, seal
from splitveil.export.parity import check_part, like_passport
from splitveil.export.slider import largest_scale
from splitveil.files import write_bytes
from splitveil.records import AttackResult, RunRecord
from splitveil.split_model import SplitModel
from splitveil_edge.passport import EDGE, FINISH, Passport, read_passport
from splitveil_edge.reading import dump_json

__all__ = ["LIVE", "PAGE", "write_live"]

_SAMPLES = 10
_COMPARED = 256
_FINEST, _COARSEST, _PER_OCTAVE = -6, 3, 16  # of the noise, octaves; 1/64 is what 4,096 releases average to


def write_live(
    bundle: str | Path,
    run: RunRecord | str | Path,
    undefended: RunRecord | str | Path | None = None,
    *,
    trusted: str | None = None,
) -> Path:
    """Write ``live/`` into a bundle, for ``splitveil serve --ui``.

    ```
    page.json               what there is, its digests, sample pictures, nats by noise, how far its noise may be scaled
    attacker.onnx           the strongest stored decoder of the run: r -> picture
    averaging_attacker.onnx   the same among those that learned from several releases, after an audit with them
    undefended.onnx         head of the undefended run: x -> r
    undefended_attacker.onnx   its strongest stored decoder
    ```
    The page shows the bundle's head to whoever opens it, as any device shows it to its owner.

    Args:
        bundle: folder with both sides' graphs.
        run: that was exported, with an attack that stored its decoder.
        undefended: a run of the same data without a defense, to stand beside it.
        trusted: a model factory outside splitveil that the user named.

    Raises:
        SpecError: the runs and the bundle do not fit each other, or the device has a last step that is its secret.
        MissingDataError: no stored decoder.
        OutputError: there is such a folder already.
    """
    bundle, record = Path(bundle), _open(run)
    passport = read_passport(bundle)
    _check(bundle, passport, record)
    data = load_data_spec(record.spec.data)
    model = load_model(record, data, trusted=trusted)
    _compare(bundle, passport, record, model, data)
    facts: dict[str, Any] = {
        "format": 1,
        "splitveil": __version__,
        "passport": passport.digest,
        "combine": combination_name(model.mechanism.combine, model.release_spec),
        "certificate": _certificate(model, data),
        "largest_scale": 1.0,
        "samples": _samples(data),
        "undefended": None,
    }

    def fill(folder: Path) -> None:
        facts["defended"] = _attacker(record, folder / "attacker.onnx")
        facts["averaging"] = _averaging(record, folder / "averaging_attacker.onnx")
        if undefended is not None:
            plain = _plain(_open(undefended), record)
            facts["undefended"] = _beside(plain, load_model(plain, data, trusted=trusted), folder)
        if facts["certificate"] is not None:  # without one the slider stands still
            facts["largest_scale"] = largest_scale(bundle, passport, hold(data.splits.test))
        facts["files"] = {file.name: seal(file) for file in sorted(folder.glob("*.onnx"))}
        write_bytes(folder / PAGE, dump_json(facts))

    return write_folder(bundle / LIVE, fill)


def _open(run: RunRecord | str | Path) -> RunRecord:
    return run if isinstance(run, RunRecord) else RunRecord.open(Path(run))


def _check(bundle: Path, passport: Passport, record: RunRecord) -> None:
    if FINISH in passport.files:
        raise SpecError(
            f"expected a bundle whose device ends with the release, got '{bundle}' with {FINISH}: it is the device's "
            "secret, and a page keeps none; take a run without such a step"
        )
    passport.check_files(bundle, [EDGE])
    spec = record.spec
    facts = {
        "defense": (passport.defense["name"], spec.defense.name),
        "defense's parameters": (dict(passport.defense["params"]), dict(spec.defense.params)),
        "digest of pictures": (passport.data.get("digest"), spec.data.digest),
    }
    for what, (told, got) in facts.items():
        if told != got:
            raise _another(bundle, record, f"with the {what} {got} instead of {told}")


def _compare(bundle: Path, passport: Passport, record: RunRecord, model: SplitModel, data: LoadedData) -> None:
    """Raise `SpecError` unless the edge's graph releases what the run's head does."""
    told = (passport.input_shape, passport.release_shape, {law.name: (law.shape, law.law) for law in passport.noise})
    noises = {noise.name: (noise.shape, noise.law) for noise in model.noise_specs}
    if told != (model.input_shape, model.release_spec.shape, noises):
        raise _another(bundle, record, "whose pictures, releases or noise are of other shapes")
    test = hold(data.splits.test)
    few = test.take(torch.arange(min(_COMPARED, len(test))))
    same = like_passport(model.to(memory_format=torch.contiguous_format), passport)
    try:
        check_part("edge", measure_edge(same, bundle, passport, few, evaluation_rng(record)), passport)
    except CheckFailedError as error:
        raise _another(bundle, record, f"whose head is another ({error})") from error


def _another(bundle: Path, record: RunRecord, got: str) -> SpecError:
    return SpecError(
        f"expected the run that '{bundle}' was exported from, got '{record.path}' {got}: pass that run, or export "
        "this one again"
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    result: AttackResult
    inverter: FittedInverter

    @property
    def observations(self) -> int:
        return int(self.result.threat.get("observations", 1))


def _stored(record: RunRecord) -> Iterator[_Stored]:
    """Stored decoders, the least error first; those that learned from near duplicates say nothing about a mean."""
    for attack in sorted(record.attacks, key=lambda item: item.metrics["mse"].mean):
        file = record.path / "attackers" / f"{attack.key}.safetensors"
        same = attack.threat.get("duplicates", "exact") == "exact"
        if same and file.is_file() and isinstance(inverter := load_inverter(file), DecoderInverter):
            yield _Stored(attack, inverter)


def _attacker(record: RunRecord, file: Path) -> dict[str, Any]:
    """The strongest that saw one release."""
    found = next((item for item in _stored(record) if item.observations == 1), None)
    if found is None:
        raise MissingDataError(
            f"expected a stored decoder in '{record.path / 'attackers'}', got none: run  splitveil attack {record.path}"
        )
    return _written(found, file)


def _averaging(record: RunRecord, file: Path) -> dict[str, Any] | None:
    """The strongest that learned from several releases of a picture, where an audit left one."""
    found = next((item for item in _stored(record) if item.observations > 1), None)
    return None if found is None else {**_written(found, file), "observations": found.observations}


def _written(found: _Stored, file: Path) -> dict[str, Any]:
    export_inverter(found.inverter, file)
    metrics = found.result.metrics
    return {
        "attacker": file.name,
        "attack": found.result.attack.name,
        "mse": metrics["mse"].mean,
        "psnr_db": metrics["psnr"].mean,
        "pictures": metrics["mse"].n,
    }


def _plain(plain: RunRecord, record: RunRecord) -> RunRecord:
    if (plain.spec.data.digest, plain.spec.defense.name) != (record.spec.data.digest, "none"):
        raise SpecError(
            f"expected an undefended run of the same pictures in '{plain.path}', got defense "
            f"'{plain.spec.defense.name}' on '{plain.spec.data.source}': train one with  --defense none"
        )
    return plain


def _beside(plain: RunRecord, model: SplitModel, folder: Path) -> dict[str, Any]:
    export_edge(model, folder / "undefended.onnx")
    noise = [{"name": spec.name, "shape": list(spec.shape), "law": spec.law} for spec in model.noise_specs]
    attacker = _attacker(plain, folder / "undefended_attacker.onnx")
    return {"edge": "undefended.onnx", "noise": noise, "release": list(model.release_spec.shape), **attacker}


def _certificate(model: SplitModel, data: LoadedData) -> dict[str, Any] | None:
    """Nats that one release can tell at most, by how much its noise is scaled; None where no capacity is certified."""
    specs = model.noise_specs
    channel = Channel.of(model, hold(data.splits.test))
    if channel is None or channel.std is None or channel.width is None or channel.ball is not None or len(specs) != 1:
        return None
    stds, width = [float(std) for std in channel.std], channel.width
    octaves = np.arange(_FINEST * _PER_OCTAVE, _COARSEST * _PER_OCTAVE + 1) / _PER_OCTAVE
    scales = (2.0**octaves).tolist()  # those of the page's slider among them, exactly
    nats = [math.fsum(capacity_box(1, width, std * scale) for std in stds) for scale in scales]
    if specs[0].law != "standard_normal" or not np.isfinite(nats).all():
        return None
    return {"noise_std": sum(stds) / len(stds), "width": width, "scales": scales, "nats": nats}


def _samples(data: LoadedData) -> list[dict[str, str]]:
    """The first test picture of each class, at most ten, as PNG."""
    table, names = data.splits.test, data.source.class_names
    labels = table.labels.tolist()
    first = {label: labels.index(label) for label in sorted(set(labels))}
    found = list(first.items())[:_SAMPLES]
    pixels = look_up(table.images, torch.tensor([place for _, place in found]))
    return [{"label": names[label], "png": _png(picture)} for (label, _), picture in zip(found, pixels, strict=True)]


def _png(picture: Tensor) -> str:
    if picture.dtype != torch.uint8 or len(picture) not in (1, 3):
        raise InputError(f"expected pictures of one or three channels as bytes, got {picture.dtype} {picture.shape}")
    array = picture.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
