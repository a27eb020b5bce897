"""The graphs of a bundle, opened with ONNX Runtime and held to their passport."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil_edge.errors import InputError, TrustError
from splitveil_edge.passport import CLOUD, EDGE, FINISH, Passport

__all__ = ["CloudGraph", "EdgeGraphs", "Graph"]

_QUIET = 4  # fatal only: its warnings are about graphs, in a form that no user can act on


class Graph:
    """One ONNX file with inputs and one output ``(n, *shape)`` of float32.

    Args:
        file: of the graph.
        inputs: shapes without the batch, by name, in order.
        output: name and shape without the batch.
        threads: of ONNX Runtime within one call; 0 for all cores.

    Raises:
        TrustError: the file is no graph, or one with other inputs or another output.
    """

    def __init__(
        self, file: Path, inputs: dict[str, tuple[int, ...]], output: tuple[str, tuple[int, ...]], threads: int = 0
    ) -> None:
        runtime: Any = import_module("onnxruntime")  # half a second: not before it is needed
        options = runtime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = _QUIET, threads
        try:
            self._session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise TrustError(f"expected an ONNX graph in '{file}', got {error}: export the bundle again") from error
        self._file, self._inputs, self._output = file, inputs, output
        expected = (dict(inputs), {output[0]: output[1]})
        found = (_described(self._session.get_inputs()), _described(self._session.get_outputs()))
        if found != expected:
            raise TrustError(
                f"expected a graph from {expected[0]} to {expected[1]} in '{file}', as its passport says, got one from "
                f"{found[0]} to {found[1]}: a file was swapped; get the bundle again"
            )

    def __call__(self, **values: NDArray[Any]) -> NDArray[np.float32]:
        """Arrays ``(n, *shape)`` by input name to ``(n, *output)``; n is 1 or more.

        Raises:
            InputError: a shape is another, or the rows differ in number.
        """
        rows = {len(value) for value in values.values() if value.ndim}
        for name, shape in self._inputs.items():
            if values[name].shape[1:] != shape or len(rows) != 1 or rows == {0}:
                got = {key: value.shape for key, value in values.items()}
                raise InputError(f"expected {name} of shape (n, {', '.join(map(str, shape))}), n >= 1, got {got}")
        feeds = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in values.items()}
        try:
            (result,) = self._session.run([self._output[0]], feeds)
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise InputError(f"expected '{self._file}' to run on {sorted(rows)} rows, got {error}") from error
        found: NDArray[np.float32] = result
        return found


class EdgeGraphs:
    """The device's graphs: picture and noises to release, reply to output.

    Args:
        folder: of the bundle, or of its edge side; the files are held against the digests of the passport.
        passport: of the bundle.
        threads: see `Graph`.
    """

    def __init__(self, folder: Path, passport: Passport, threads: int = 0) -> None:
        finishes = FINISH in passport.files
        passport.check_files(folder, [EDGE, FINISH] if finishes else [EDGE])
        inputs = {"x": passport.input_shape, **{law.name: law.shape for law in passport.noise}}
        self._edge = Graph(folder / EDGE, inputs, ("r", passport.release_shape), threads)
        self._finish: Graph | None = None
        if finishes:
            ends = ("output", passport.output_shape)
            self._finish = Graph(folder / FINISH, {"reply": passport.reply_shape}, ends, threads)

    def release(self, x: NDArray[Any], noises: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """``(n, c, h, w)`` in [0, 1] and one noise per law to ``(n, *r)``."""
        return self._edge(x=x, **noises)

    def finish(self, reply: NDArray[Any]) -> NDArray[np.float32]:
        """``(n, *reply)`` to ``(n, *output)``."""
        return np.asarray(reply, np.float32) if self._finish is None else self._finish(reply=reply)


class CloudGraph:
    """The cloud's graph: release to reply.

    Args:
        folder: of the bundle, or of its cloud side; the file is held against the digest of the passport.
        passport: of the bundle.
        threads: see `Graph`.
    """

    def __init__(self, folder: Path, passport: Passport, threads: int = 0) -> None:
        passport.check_files(folder, [CLOUD])
        ends = ("reply", passport.reply_shape)
        self._graph = Graph(folder / CLOUD, {"r": passport.release_shape}, ends, threads)

    def reply(self, r: NDArray[Any]) -> NDArray[np.float32]:
        """``(n, *r)`` to ``(n, *reply)``."""
        return self._graph(r=r)


def _described(values: list[Any]) -> dict[str, Any]:
    """Shapes by name; what is no float32 with a free batch is described by its type."""
    found: dict[str, Any] = {}
    for value in values:
        shape = tuple(value.shape)
        free = bool(shape) and not isinstance(shape[0], int) and all(isinstance(size, int) for size in shape[1:])
        sound = free and value.type == "tensor(float)" and math.prod(shape[1:]) > 0
        found[value.name] = shape[1:] if sound else f"{value.type} {shape}"
    return found
