"""Graphs in fewer bits: fp16 by conversion, int8 by static quantisation on calibration releases."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splitveil.errors import InputError, MissingExtraError
from splitveil.files import write_with

__all__ = ["PRECISIONS", "Feeds", "Precision", "lower_precision", "reached_by"]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")

Feeds = Sequence[dict[str, NDArray[np.float32]]]
"""Batches of inputs by name."""

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def lower_precision(file: Path, precision: Precision, noises: Sequence[str] | None, calibration: Feeds) -> None:
    """Rewrite a graph in place, whole or not at all.

    In an edge, only convolutions and matrix products that no noise reaches change. Clip and noise stay
    float32, since what is certified rests on them: noise of few bits is another noise. A cloud in fp16 computes in half
    floats throughout, as a GPU does.

    Args:
        file: of the graph.
        precision: ``fp32`` leaves it alone.
        noises: names of the inputs of an edge that are noise; None for a cloud.
        calibration: inputs that int8 takes its ranges from.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        InputError: the libraries cannot convert this graph.
    """
    if precision == "fp32":
        return
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "export", f"exporting in {precision}")
    onnx = import_module("onnx")
    model = onnx.load(file)
    untouched = reached_by(model.graph, noises or ())
    metadata = {item.key: item.value for item in model.metadata_props}
    try:
        if precision == "int8":
            lowered = _quantised(model, untouched, calibration)
        else:
            lowered = _with_half_weights(model, untouched) if noises is not None else _halved(model)
    except Exception as error:  # the converters raise whatever they meet
        raise InputError(f"cannot convert '{file.name}' to {precision}: {error}; export it as fp32") from error
    onnx.helper.set_model_props(lowered, metadata)
    write_with(file, lambda temporary: _save(lowered, temporary))


def reached_by(graph: Any, inputs: Sequence[str]) -> set[str]:
    """Names of the nodes of an ONNX graph, in topological order, that values of these inputs reach."""
    values, nodes = set(inputs), set[str]()
    for node in graph.node:
        if values & set(node.input):
            nodes.add(node.name)
            values.update(node.output)
    return nodes


def _halved(model: Any) -> Any:
    """A graph that computes in half floats, with inputs and outputs of float32."""
    float16: Any = import_module("onnxruntime.transformers.float16")
    return float16.convert_float_to_float16(model, keep_io_types=True)


def _with_half_weights(model: Any, untouched: set[str]) -> Any:
    """A graph whose products have weights of half floats and compute in float32.

    The library's conversion would cast every input to half floats first, the noise too.
    """
    onnx = import_module("onnx")
    graph, weights = model.graph, {item.name: item for item in model.graph.initializer}
    casts: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type not in _PRODUCTS or node.name in untouched:
            continue
        for place, name in enumerate(node.input):
            weight = weights.get(name)
            if weight is not None and weight.data_type == onnx.TensorProto.FLOAT:
                casts[name] = onnx.helper.make_node("Cast", [f"{name}.half"], [f"{name}.float"], to=weight.data_type)
                node.input[place] = f"{name}.float"
    for name in casts:
        half = onnx.numpy_helper.to_array(weights[name]).astype(np.float16)
        graph.initializer.append(onnx.numpy_helper.from_array(half, f"{name}.half"))
    used = {name for node in graph.node for name in node.input}
    nodes = [*casts.values(), *graph.node]
    kept = [item for item in graph.initializer if item.name in used or item.name.endswith(".half")]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    return model


def _quantised(model: Any, untouched: set[str], calibration: Feeds) -> Any:
    library: Any = import_module("onnxruntime.quantization")
    onnx = import_module("onnx")
    with TemporaryDirectory(prefix="splitveil-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        with _without_advice():
            library.quantize_static(
                str(source),
                str(target),
                _reader(library, calibration),
                op_types_to_quantize=list(_PRODUCTS),
                nodes_to_exclude=sorted(untouched),
                per_channel=True,
                reduce_range=True,
            )
        return onnx.load(target)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Mute the library's advice to rewrite the graph first: it speaks through the root logger, to who cannot act."""
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        yield
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


def _reader(library: Any, calibration: Feeds) -> Any:
    """The batches as the library wants them: one by one, then None."""

    class Reader(library.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._batches, None)

    return Reader()


def _save(model: Any, temporary: Path) -> None:
    temporary.write_bytes(model.SerializeToString())
