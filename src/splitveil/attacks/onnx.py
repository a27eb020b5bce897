"""An encoder as an ONNX file, a stranger's or an exported one, as a subject of an audit."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitveil.attacks.metadata import COMBINE_KEY, NOISE_KEY, RELEASE_KEY, parse_noises, parse_release
from splitveil.attacks.subjects import BLACK_BOX_OFFERS
from splitveil.combining import COMBINATIONS, Combine, find_combination
from splitveil.contracts import FeatureSpec, NoiseSource, NoiseSpec
from splitveil.errors import InputError, MissingDataError, MissingExtraError
from splitveil.threats import Grant

__all__ = ["COMBINE_KEY", "NOISE_KEY", "RELEASE_KEY", "OnnxSubject"]

_CURE = "export the file again"


class OnnxSubject:
    """An ONNX encoder as a black box: its first input is the picture, further inputs are noises.

    The laws of the noises stand in the file's metadata under `NOISE_KEY`, as the exporter writes them. The first
    output is the release; how it is to be read stands under `RELEASE_KEY`, or follows from its shape. What several
    releases of one input amount to stands under `COMBINE_KEY`. Files with a free batch axis and files with a fixed one
    both run.

    Args:
        path: of the file.
        combine: what m releases ``(n, m, *r)`` of one input amount to, ``(n, *r)``: a function, or a name of
            `COMBINATIONS`; what the file says by default, and the mean where it says nothing.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        MissingDataError: there is no such file.
        InputError: the file is not ONNX, or its inputs or metadata are not as above.
    """

    offers: frozenset[Grant] = BLACK_BOX_OFFERS

    def __init__(self, path: Path | str, combine: Combine | str | None = None) -> None:
        self.path = Path(path)
        given = None if combine is None else find_combination(combine)
        self._session = _open(self.path)
        self._metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._combine = self._read_combine() if given is None else given
        inputs = self._session.get_inputs()
        if not inputs:
            raise InputError(f"expected a first input for the picture in '{self.path}', got a graph without inputs")
        self._picture: str = inputs[0].name
        self.input_shape: tuple[int, ...] = self._sizes(inputs[0])
        if len(self.input_shape) != 3:
            raise InputError(f"expected a first input (n, c, h, w) in '{self.path}', got {inputs[0].shape}")
        self._batch = self._fixed_batch(inputs)
        self.noise_specs = self._read_noises(inputs[1:])
        self._output: str = self._session.get_outputs()[0].name
        zeros = [torch.full((1, *spec.shape), 0.5) for spec in self.noise_specs]
        shape = tuple(self._run(torch.zeros(1, *self.input_shape), zeros).shape[1:])
        text = self._metadata.get(RELEASE_KEY)
        self.release_spec: FeatureSpec = parse_release(text, shape, str(self.path), _CURE)

    def _sizes(self, value: Any) -> tuple[int, ...]:
        sizes = tuple(value.shape[1:])
        if value.type != "tensor(float)" or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise InputError(
                f"expected input '{value.name}' of float32 with fixed sizes behind the batch in "
                f"'{self.path}', got {value.type} {value.shape}: export it with fixed picture sizes"
            )
        return sizes

    def _fixed_batch(self, inputs: list[Any]) -> int | None:
        batches = {value.shape[0] if isinstance(value.shape[0], int) else None for value in inputs if value.shape}
        if len(batches) != 1:
            raise InputError(
                f"expected the same batch axis in all inputs of '{self.path}', got {[value.shape for value in inputs]}"
            )
        return batches.pop()

    def _read_noises(self, inputs: list[Any]) -> tuple[NoiseSpec, ...]:
        text = self._metadata.get(NOISE_KEY)
        if text is None and inputs:
            names = ", ".join(value.name for value in inputs)
            raise InputError(
                f"expected metadata '{NOISE_KEY}' with the laws of the inputs {names} in '{self.path}', "
                "got none: export it with splitveil, or draw the noise inside the graph"
            )
        specs = parse_noises(text or "[]", str(self.path), _CURE)
        found = {value.name: self._sizes(value) for value in inputs}
        if {spec.name: spec.shape for spec in specs} != found or len(specs) != len(found):
            raise InputError(
                f"expected noises {found} in the metadata '{NOISE_KEY}' of '{self.path}', got {specs}: {_CURE}"
            )
        return specs

    def _read_combine(self) -> Combine:
        name = self._metadata.get(COMBINE_KEY, "mean")
        if name not in COMBINATIONS:
            known = ", ".join(COMBINATIONS)
            raise InputError(f"expected one of {known} under '{COMBINE_KEY}' in '{self.path}', got {name!r}: {_CURE}")
        return COMBINATIONS[name]

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """``(n, c, h, w)`` float32 in [0, 1] to ``(n, *r)`` float32 on the device of x.

        Raises:
            InputError: the picture has another shape, or the file fails on it.
        """
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(f"expected x of shape (n, {', '.join(map(str, self.input_shape))}), got {tuple(x.shape)}")
        r = self._run(x, [noise.draw(spec, len(x)) for spec in self.noise_specs])
        self.release_spec.check(r, "r")
        return r.to(x.device)

    def combine(self, r: Tensor) -> Tensor:
        """What m releases of one input amount to: ``(n, m, *r)`` to ``(n, *r)``."""
        return self._combine(r)

    def _run(self, x: Tensor, noises: list[Tensor]) -> Tensor:
        values = [value.cpu().to(torch.float32) for value in (x, *noises)]
        if self._batch is None:
            return self._call(values)
        rows = []
        for chunk in zip(*(torch.split(value, self._batch) for value in values), strict=True):
            missing = self._batch - len(chunk[0])
            padded = [torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) for part in chunk]
            rows.append(self._call(padded)[: len(chunk[0])])
        return torch.cat(rows)

    def _call(self, values: list[Tensor]) -> Tensor:
        names = [self._picture, *(spec.name for spec in self.noise_specs)]
        feeds = {name: value.contiguous().numpy() for name, value in zip(names, values, strict=True)}
        try:
            result: NDArray[Any] = np.asarray(self._session.run([self._output], feeds)[0])
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise InputError(f"expected '{self.path}' to run on pictures {self.input_shape}, got {error}") from error
        if result.ndim < 2 or len(result) != len(values[0]) or result.dtype.kind != "f":
            raise InputError(
                f"expected a float release with {len(values[0])} rows from '{self.path}', got "
                f"{result.dtype} {result.shape}"
            )
        return torch.from_numpy(result.astype(np.float32))


def _open(path: Path) -> Any:
    if find_spec("onnxruntime") is None:
        raise MissingExtraError("onnxruntime", "export", "auditing an ONNX file")
    if not path.is_file():
        raise MissingDataError(f"expected an ONNX file at '{path}', got none: check the path")
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its warnings are about graphs, in a form that no user can act on
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        raise InputError(f"expected an ONNX file at '{path}', got {error}: export it again") from error
