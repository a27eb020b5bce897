"""Bundles of a moment: a small untrained split of the digits' shape, exported as a run would be."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from splitveil.codecs import QuantisedCodec
from splitveil.contracts import Codec
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.export.graph import export_cloud, export_edge, export_finish
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil_edge.passport import CLOUD, EDGE, FINISH, PASSPORT, SIGNATURE
from splitveil_edge.reading import dump_json
from splitveil_edge.signing import sign

RELEASE = (4, 8, 8)
CLASSES = 10


def make_split(*, finish: bool = False, bits: int | None = None, seed: int = 0) -> SplitModel:
    """x (1, 8, 8) -> r (4, 8, 8) -> reply (10,), with Gaussian noise; a finish and a codec where they are asked for."""
    with Rng(seed).scoped():
        head = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Sigmoid())
        tail = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, CLASSES))
        last = nn.Linear(CLASSES, CLASSES) if finish else nn.Identity()
    codec: Codec | None = None if bits is None else QuantisedCodec(bits, -0.5, 1.5)
    return SplitModel(SplitParts(head, tail, (1, 8, 8), last), Gaussian(noise_std=0.1), codec).eval()


def make_bundle(
    folder: Path,
    *,
    finish: bool = False,
    bits: int | None = None,
    key: bytes | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A bundle of `make_split`.

    Args:
        folder: that is written.
        finish: whether the edge has a last step of its own.
        bits: of a codec, None for float32.
        key: private, PEM; signs the passport.
        seed: of the weights.
        changes: to keys of the passport; they are not checked, so that tests can break it.
    """
    folder = Path(folder)
    shutil.copytree(_exported(finish, bits, seed), folder, dirs_exist_ok=True)
    body = dump_json({**json.loads((folder / PASSPORT).read_bytes()), **changes})
    (folder / PASSPORT).write_bytes(body)
    if key is not None:
        (folder / SIGNATURE).write_bytes(sign(body, key).to_bytes())
    return folder


@cache
def _exported(finish: bool, bits: int | None, seed: int) -> Path:
    """The same bundle, exported once per process."""
    folder = Path(tempfile.mkdtemp(prefix="splitveil-bundle-"))
    model = make_split(finish=finish, bits=bits, seed=seed)
    export_edge(model, folder / EDGE)
    export_cloud(model, folder / CLOUD)
    export_finish(model, folder / FINISH)
    (folder / PASSPORT).write_bytes(dump_json(_facts(model, folder)))
    return folder


def _facts(model: SplitModel, folder: Path) -> dict[str, Any]:
    codec = model.codec
    framed = {"name": "float32"}
    if isinstance(codec, QuantisedCodec):
        framed = {"name": "quantise", "bits": codec.bits, "low": codec.low, "high": codec.high}
    files = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in sorted(folder.glob("*.onnx"))
    }
    return {
        "format": 1,
        "splitveil": "0.1.0",
        "created": "2025-01-01T00:00:00Z",
        "expires": None,
        "name": "digits",
        "defense": {"name": "gaussian", "params": {"noise_std": 0.1}},
        "input_shape": list(model.input_shape),
        "class_names": [str(digit) for digit in range(CLASSES)],
        "feature": model.feature_spec.to_json(),
        "release": model.release_spec.to_json(),
        "reply": {"shape": [CLASSES]},
        "output": {"shape": [CLASSES]},
        "noise": [{"name": spec.name, "shape": list(spec.shape), "law": spec.law} for spec in model.noise_specs],
        "codec": framed,
        "precision": {"edge": "fp32", "cloud": "fp32"},
        "files": files,
        "certificates": None,
        "audit": None,
        "data": {"digest": None},
        "parity": {"edge": 0.0, "cloud": 0.0},
        "release_range": {"low": -4.0, "high": 5.0},
    }
