"""A model repository for Triton: the same graph, for a server of somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

from splitveil.cloud.settings import ServeSettings
from splitveil.cloud.tails import Served, open_bundle
from splitveil.errors import InputError, OutputError
from splitveil.export.folders import write_folder
from splitveil_edge.passport import CLOUD, PASSPORT, SIGNATURE

__all__ = ["triton_repository"]

_CONFIG = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch}
input [ {{ name: "r" data_type: TYPE_FP32 dims: [ {release} ] }} ]
output [ {{ name: "reply" data_type: TYPE_FP32 dims: [ {reply} ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
parameters {{ key: "passport_sha256" value: {{ string_value: "{digest}" }} }}
"""


def triton_repository(
    bundle: str | Path,
    out: str | Path,
    *,
    max_batch: int = 64,
    max_delay_ms: float = 2.0,
    public_key: bytes | None = None,
) -> Path:
    """Write ``OUT/NAME/config.pbtxt``, ``OUT/NAME/1/model.onnx`` and the passport beside it.

    Args:
        bundle: folder with cloud.onnx and passport.json.
        out: the repository; other models in it stay.
        max_batch: rows that Triton runs together.
        max_delay_ms: that the first of a batch waits for others.
        public_key: of who must have signed the passport.

    Returns:
        The folder of the model.

    Raises:
        EdgeError: see `open_bundle`.
        InputError: the bundle's codec is one that Triton does not decode.
        OutputError: the repository holds a model of this name.
        SpecError: settings out of range.
    """
    ServeSettings(max_batch=max_batch, max_delay_ms=max_delay_ms)
    served = open_bundle(Path(bundle), public_key)
    passport = served.passport
    if passport.codec.name != "float32":
        raise InputError(
            f"expected the codec float32 for Triton, got '{passport.codec.name}', which its ONNX backend does not "
            "decode: export without a codec, or use  splitveil serve"
        )
    folder = Path(out) / passport.name
    if folder.exists():
        raise OutputError(f"expected no model at '{folder}', got one: choose another --out, or remove it")
    config = _CONFIG.format(
        name=passport.name,
        max_batch=max_batch,
        release=", ".join(map(str, passport.release_shape)),
        reply=", ".join(map(str, passport.reply_shape)),
        delay=round(1000 * max_delay_ms),
        digest=passport.digest,
    )
    return write_folder(folder, lambda empty: _fill(empty, served, config))


def _fill(folder: Path, served: Served, config: str) -> None:
    (folder / "config.pbtxt").write_text(config)
    version = folder / "1"
    version.mkdir()
    shutil.copyfile(served.folder / CLOUD, version / "model.onnx")
    for name in (f"{CLOUD}.data", PASSPORT, SIGNATURE):
        if (served.folder / name).is_file():
            shutil.copyfile(served.folder / name, version / name)
