"""The split as ONNX files: what runs on the edge, in the cloud, and on the edge again."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitveil.attacks.inverters import FittedInverter
from splitveil.attacks.metadata import COMBINE_KEY, NOISE_KEY, RELEASE_KEY
from splitveil.combining import combination_name
from splitveil.errors import ContractError, InputError, MissingDataError, MissingExtraError
from splitveil.files import write_with
from splitveil.modes import device_of, evaluating
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

__all__ = [
    "check_exporter",
    "edge_parity",
    "export_cloud",
    "export_edge",
    "export_finish",
    "export_inverter",
    "run_onnx",
]

_KEY = Rng(0).child("export")  # of the pictures and the noise that a part is traced with
_TRACED_ROWS = 2  # torch treats 0 and 1 as constants
_CHECKED_ROWS = (1, 3)
_TOLERANCE = 1e-2  # far above rounding, far below another result
_SINGLE_FILE_BYTES = 1_500_000_000  # a protobuf ends at 2 GiB; the rest is for the graph itself


class _Edge(nn.Module):
    def __init__(self, model: SplitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *noises: Tensor) -> Tensor:
        return self.model.simulate(x, noises)


class _Cloud(nn.Module):
    def __init__(self, model: SplitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, r: Tensor) -> Tensor:
        return self.model.reply(r)


class _Attacker(nn.Module):
    def __init__(self, inverter: FittedInverter) -> None:
        super().__init__()
        self.inverter = inverter

    def forward(self, r: Tensor) -> Tensor:
        return self.inverter.reconstruct(r).clamp(0.0, 1.0)


def export_edge(model: SplitModel, path: Path) -> Path:
    """Write head and mechanism: the release as a function of the picture and of noise that the device draws.

    ```
    x (n, c, h, w) ─┐
    noise (n, ...) ─┴─[ head ]─[ mechanism ]─ r (n, *r)         n is dynamic
    ```
    The inputs are ``x`` and one per `NoiseSpec`, by its name; their laws stand in the metadata under
    `splitveil.attacks.metadata.NOISE_KEY`, the spec of the release under `RELEASE_KEY`, and under `COMBINE_KEY` what
    several releases of one input amount to, where that has a name; so the file can be audited as it is.

    Args:
        model: is traced in evaluation mode and left in the modes it was in.
        path: of the file; it is written whole or not at all.

    Returns:
        The path.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ContractError: the model fixes the batch or cannot be traced, or its noises share a name.
        OutputError: the file cannot be written.
    """
    specs = model.noise_specs
    inputs = ["x", *(spec.name for spec in specs)]
    if len({*inputs, "r"}) != len(inputs) + 1:
        names = ", ".join(spec.name for spec in specs)
        raise ContractError(f"expected noises with different names, none of them 'x' or 'r', got {names}: rename them")
    metadata = {
        NOISE_KEY: json.dumps([asdict(spec) for spec in specs]),
        RELEASE_KEY: json.dumps(model.release_spec.to_json()),
    }
    combination = combination_name(model.mechanism.combine, model.release_spec)
    if combination is not None:
        metadata[COMBINE_KEY] = combination

    def example(n: int) -> tuple[Tensor, ...]:
        x = _pictures(model, n)
        return (x, *model.draw(SeededNoise(_KEY), n, x.device))

    return _export(_Edge(model), path, example, inputs, "r", metadata)


def export_cloud(model: SplitModel, path: Path) -> Path:
    """Write the cloud's part: input ``r (n, *r)``, output ``reply``; see `export_edge`."""
    return _export(_Cloud(model), path, lambda n: (_release(model, n),), ["r"], "reply", {})


def export_finish(model: SplitModel, path: Path) -> Path | None:
    """Write the edge's last step: input ``reply``, output ``output``; None where it is the identity."""
    if isinstance(model.finish, nn.Identity):
        return None
    return _export(model.finish, path, lambda n: (model.reply(_release(model, n)),), ["reply"], "output", {})


def export_inverter(inverter: FittedInverter, path: Path) -> Path:
    """Write a fitted attacker: input ``r (n, *r)``, output ``x (n, c, h, w)`` in [0, 1]; see `export_edge`."""

    def example(n: int) -> tuple[Tensor, ...]:
        return (torch.randn(n, *inverter.release.shape, generator=_KEY.generator()),)

    return _export(_Attacker(inverter), path, example, ["r"], "x", {})


def run_onnx(path: Path, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a file with ONNX Runtime on the CPU.

    Args:
        path: of the file.
        inputs: arrays by input name.

    Returns:
        Arrays by output name.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        MissingDataError: there is no such file.
        InputError: the file is not ONNX, or the inputs do not fit it or each other.
    """
    runtime = _load("onnxruntime", "running an ONNX file")
    if not path.is_file():
        raise MissingDataError(f"expected an ONNX file at '{path}', got none: export the model first")
    shapes = {name: value.shape for name, value in inputs.items()}
    if len({shape[:1] for shape in shapes.values()}) > 1:
        # the runtime would share one row of noise between all pictures, and a difference of releases would cancel it
        raise InputError(f"expected inputs with one row per picture, got {shapes}: draw as many noises as pictures")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, inputs)
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        raise InputError(f"expected an ONNX file and inputs that fit it, got from '{path}': {error}") from error
    return dict(zip(names, values, strict=True))


def edge_parity(model: SplitModel, path: Path, x: Tensor, noises: tuple[Tensor, ...]) -> float:
    """The largest absolute difference between the release of the file and that of the model, on equal noises.

    Args:
        model: what was exported.
        path: of the edge's file.
        x: ``(n, c, h, w)``, float32 in [0, 1].
        noises: of the model's `noise_specs`.

    Returns:
        The difference, feature units.

    Raises:
        InputError: the file's release has another shape, or a difference that is not a number.
    """
    feeds = {"x": x, **{spec.name: noise for spec, noise in zip(model.noise_specs, noises, strict=True)}}
    got = run_onnx(path, {name: value.detach().cpu().numpy() for name, value in feeds.items()})["r"]
    with evaluating(model), torch.no_grad():
        expected = model.simulate(x, noises).cpu().numpy()
    if got.shape != expected.shape:
        raise InputError(f"expected a release of shape {expected.shape} from '{path}', got {got.shape}: export again")
    difference = float(np.abs(got - expected).max(initial=0.0))
    if not np.isfinite(difference):
        raise InputError(f"expected finite releases from '{path}' and the model, got NaN or infinity: check the inputs")
    return difference


def _pictures(model: SplitModel, n: int) -> Tensor:
    return torch.rand(n, *model.input_shape, generator=_KEY.generator()).to(device_of(model))


def _release(model: SplitModel, n: int) -> Tensor:
    return model.release(_pictures(model, n), noise=SeededNoise(_KEY))


def check_exporter() -> None:
    """That all is installed which exporting needs, or a `MissingExtraError`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _need(package, "exporting")


def _need(package: str, purpose: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError(package, "export", purpose)


def _load(package: str, purpose: str) -> Any:
    _need(package, purpose)
    return import_module(package)


def _export(
    module: nn.Module,
    path: Path,
    example: Callable[[int], tuple[Tensor, ...]],
    inputs: list[str],
    output: str,
    metadata: dict[str, str],
) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _load(package, "exporting")
    path = Path(path)

    def write(temporary: Path) -> None:
        _save(program, temporary, path)
        for rows in _CHECKED_ROWS:
            _check(module, temporary, dict(zip(inputs, example(rows), strict=True)), output)

    with evaluating(module), torch.no_grad():
        program = _trace(module, example(_TRACED_ROWS), inputs, output)
        _check_axes(program)
        _strip(program, metadata)
        write_with(path, write)
    return path


def _trace(module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], output: str) -> ONNXProgram:
    batch = torch.export.Dim("n")
    axes: tuple[Any, ...] = tuple({0: batch} for _ in example)
    if isinstance(module, _Edge):  # torch wants the shapes of a variadic argument as a tuple of its own
        axes = (axes[0], axes[1:]) if len(axes) > 1 else axes
    with warnings.catch_warnings():
        # all inputs share the axis n on purpose; torch warns of each but the first
        warnings.filterwarnings("ignore", message="# The axis name: n will not be used", category=UserWarning)
        try:
            program = torch.onnx.export(
                module, example, input_names=inputs, output_names=[output], dynamic_shapes=axes, verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ContractError(
                f"expected parts that torch can export with a free batch, got {_reason(error)}: use tensor operations "
                "that ONNX has, without branches on values or on the batch size"
            ) from error
    if program is None:
        raise ContractError("expected an ONNX program from torch.onnx.export, got None: check the version of torch")
    return program


def _reason(error: BaseException) -> str:
    node = None
    while error.__cause__ is not None:
        found = re.search(r"translating node %(\w+)", str(error))
        node = found.group(1) if found else node
        error = error.__cause__
    lines = str(error).strip().splitlines()
    place = f" (operation '{node}')" if node else ""
    return f"{type(error).__name__}{place}: {lines[0] if lines else 'no message'}"


def _check_axes(program: ONNXProgram) -> None:
    # torch keeps a batch that the module fixes as a constant, without an error
    graph = program.model.graph
    for value in (*graph.inputs, *graph.outputs):
        if not value.shape or isinstance(value.shape[0], int):
            raise ContractError(
                f"expected '{value.name}' with a free batch axis, got shape {value.shape}: the model reads the batch "
                "size as a constant; use x.flatten(1), x.shape[0] or -1 in its reshapes"
            )


def _check(module: nn.Module, file: Path, example: dict[str, Tensor], output: str) -> None:
    # a branch on the batch size is traced for one size and leaves no mark in the shapes, so the file is run at others;
    # sums are compared, since a mask may flip where two values lie within rounding of each other
    expected = module(*example.values()).cpu().numpy()
    got = run_onnx(file, {name: value.cpu().numpy() for name, value in example.items()})[output]
    if got.shape != expected.shape or not _relative(got, expected) <= _TOLERANCE:
        raise ContractError(
            f"expected the exported '{output}' to equal the model's for {len(expected)} rows, got another result: "
            "the model branches on the batch size or on values; use tensor operations only"
        )


def _relative(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(got - expected).sum() / max(float(np.abs(expected).sum()), 1e-6 * expected.size))


def _strip(program: ONNXProgram, metadata: dict[str, str]) -> None:
    # torch notes source lines, paths and the names of all weights, the other side's too; none of that may ship
    model = program.model
    nodes = list(model.graph.all_nodes())
    values = [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(value for node in nodes for value in node.outputs),
    ]
    holders: list[Any] = [model, model.graph, *nodes, *values]
    for holder in holders:
        holder.metadata_props.clear()
    model.metadata_props.update(metadata)


def _save(program: ONNXProgram, temporary: Path, path: Path) -> None:
    tensors = (value.const_value for value in program.model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    external = f"{path.name}.data" if size > _SINGLE_FILE_BYTES else None
    _load("onnx_ir", "exporting").save(program.model, temporary, external_data=external)
