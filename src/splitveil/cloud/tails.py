"""What runs the cloud's part: ONNX Runtime over cloud.onnx, or torch over the run that was exported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil.cloud.settings import ServeSettings
from splitveil.errors import CheckFailedError, InputError, MissingExtraError, UsageError
from splitveil_edge.passport import CLOUD, FINISH, Passport, read_passport
from splitveil_edge.wire import WireCodec, wire_codec

__all__ = ["Served", "Tail", "onnx_tail", "open_bundle", "sample_releases", "torch_tail"]

Tail = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_PARITY = 1e-3  # relative; above rounding of two runtimes, far below another model
_CHECKED_ROWS = 3


@dataclass(frozen=True)
class Served:
    """A bundle that has been checked and may be served.

    Attributes:
        folder: it lies there.
        passport: its own.
        wire: how releases come.
        graph: the bytes of cloud.onnx whose digest was checked; None where its weights lie in a file of their own.
    """

    folder: Path
    passport: Passport
    wire: WireCodec
    graph: bytes | None

    def tail(self, settings: ServeSettings, threads: int) -> Tail:
        """What answers ``(n, *r)`` with ``(n, *reply)``, float32."""
        tail = onnx_tail(self, threads)
        if settings.run is None:
            return tail
        other = torch_tail(Path(settings.run), threads)
        _check_same(tail, other, self.passport)
        return other


def open_bundle(folder: Path, public_key: bytes | None = None) -> Served:
    """Check the cloud's side of a bundle: passport, signature, digests; the bytes that were checked are those that run.

    Args:
        folder: holds cloud.onnx and passport.json.
        public_key: of who must have signed it; None leaves the signature unchecked.

    Raises:
        UsageError: the edge's secret lies in the folder.
        EdgeError: no bundle, or one that was changed, has expired, or is not signed by this key.
    """
    folder = Path(folder)
    passport = read_passport(folder, public_key=public_key)
    if (folder / FINISH).exists():
        raise UsageError(
            f"expected the cloud's side of a bundle, got '{folder}' with {FINISH}, which is the edge's secret: run  "
            f"splitveil bundle part {folder} --side cloud --out CLOUD  and serve that"
        )
    passport.check_files(folder, [CLOUD])
    graph: bytes | None = None
    if f"{CLOUD}.data" not in passport.files:
        graph = (folder / CLOUD).read_bytes()
        if hashlib.sha256(graph).hexdigest() != passport.files[CLOUD].sha256:
            raise InputError(f"expected '{folder / CLOUD}' to stay as it is while it is read, got a change: try again")
    return Served(folder, passport, wire_codec(passport), graph)


def onnx_tail(served: Served, threads: int) -> Tail:
    """ONNX Runtime on the CPU; may be called by several threads at once.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: the graph is not what the passport says.
    """
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime", "serve", "serving a bundle")
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # a thread that spins between two batches takes the core from who answers the first
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = served.graph if served.graph is not None else str(served.folder / CLOUD)
    try:
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        raise InputError(f"expected an ONNX graph in '{served.folder / CLOUD}', got {type(error).__name__}") from error
    names = ([item.name for item in session.get_inputs()], [item.name for item in session.get_outputs()])
    if names != (["r"], ["reply"]):
        raise InputError(f"expected the input 'r' and the output 'reply' in '{CLOUD}', got {names[0]} and {names[1]}")
    half = session.get_inputs()[0].type == "tensor(float16)"

    def run(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        feed = rows.astype(np.float16) if half else rows
        [reply] = session.run(["reply"], {"r": feed})
        return np.asarray(reply, np.float32)

    _check_shape(run, served.passport)
    return run


def torch_tail(run: Path, threads: int) -> Tail:
    """The model of a run, in torch; `threads` holds for the whole process.

    Raises:
        SplitveilError: no such run, or one without weights.
    """
    import torch

    from splitveil.experiments.api import load_model

    model = load_model(run).eval()
    torch.set_num_threads(threads)

    def reply(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model.reply(torch.from_numpy(np.array(rows, np.float32))).cpu().numpy())

    return reply


def sample_releases(passport: Passport, rows: int) -> NDArray[np.float32]:
    """Rows of r within the range that the passport declares, evenly spread; no picture's."""
    low, high = passport.release_range or passport.release["range"] or (0.0, 1.0)
    count = rows * int(np.prod(passport.release_shape))
    spread = np.linspace(low, high, count, dtype=np.float32)
    return spread.reshape(rows, *passport.release_shape)


def _check_shape(tail: Tail, passport: Passport) -> None:
    try:
        reply = tail(sample_releases(passport, _CHECKED_ROWS))
    except Exception as error:
        raise InputError(
            f"expected '{CLOUD}' to take r of shape (n, {', '.join(map(str, passport.release_shape))}), as its "
            f"passport says, got {type(error).__name__}: export the bundle again"
        ) from error
    if reply.shape != (_CHECKED_ROWS, *passport.reply_shape):
        raise InputError(
            f"expected replies of shape (n, {', '.join(map(str, passport.reply_shape))}) from '{CLOUD}', as its "
            f"passport says, got {reply.shape}: export the bundle again"
        )


def _check_same(tail: Tail, other: Tail, passport: Passport) -> None:
    rows = sample_releases(passport, _CHECKED_ROWS)
    expected, got = tail(rows), other(rows)
    scale = max(float(np.abs(expected).max(initial=0.0)), 1.0)
    if got.shape != expected.shape or not float(np.abs(got - expected).max(initial=0.0)) <= _PARITY * scale:
        raise CheckFailedError(
            "expected the run to answer as the bundle does, got other replies: name the run that this bundle was "
            "exported from, so that what was audited is what is served"
        )
