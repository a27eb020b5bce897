"""Fitted attackers as safetensors files: the state, and in the metadata what is needed to build the module again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from splitveil.attacks.inverters import (
    ClassInverter,
    ConstantInverter,
    DecoderInverter,
    FittedInverter,
    LinearInverter,
)
from splitveil.contracts import FeatureSpec, Inverter
from splitveil.errors import InputError, MissingDataError, SpecError, SplitveilError
from splitveil.files import write_with

__all__ = ["load_inverter", "save_inverter"]

_KEY = "splitveil.inverter"
_FORMAT = 1
_KINDS: dict[str, type[FittedInverter]] = {
    kind.kind: kind for kind in (DecoderInverter, LinearInverter, ConstantInverter, ClassInverter)
}
_LARGEST_SIZE = 1 << 16


def save_inverter(path: Path, inverter: Inverter, config: Mapping[str, Any]) -> None:
    """Write a fitted attacker, whole or not at all.

    Args:
        path: of the file.
        inverter: of `Attack.fit`.
        config: the attack's name and parameters, for the reader of the file.

    Raises:
        SpecError: the inverter holds what a file cannot, such as the cloud's network.
        OutputError: the file cannot be written.
    """
    if not isinstance(inverter, FittedInverter):
        raise SpecError(
            f"expected an inverter that can be stored ({', '.join(_KINDS)}), got "
            f"{type(inverter).__name__}: fit the attack again where it is needed"
        )
    header = {
        "format": _FORMAT,
        "kind": inverter.kind,
        "release": inverter.release.to_json(),
        "picture": list(inverter.picture),
        "sizes": inverter.sizes,
        "choices": inverter.choices,
        "attack": dict(config),
        "facts": inverter.facts,
    }
    metadata = {_KEY: json.dumps(header, allow_nan=False)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in inverter.state_dict().items()}
    write_with(Path(path), lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_inverter(path: Path) -> FittedInverter:
    """Read a fitted attacker, on the CPU and in evaluation mode.

    Raises:
        MissingDataError: there is no such file.
        InputError: it is not a file of `save_inverter`, or its parts do not fit each other.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"expected a fitted attacker at '{path}', got none: run the attack first")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"expected safetensors in '{path}', got {error}: run the attack again") from error
    try:
        header = json.loads(text or "")
        inverter = _build(header, len(tensors))
        _fill(inverter, tensors)
    except (ValueError, TypeError, LookupError, RuntimeError, SplitveilError) as error:
        raise InputError(f"expected a fitted attacker in '{path}', got {error}: run the attack again") from error
    return inverter


def _build(header: Any, tensors: int) -> FittedInverter:
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r} instead of {_FORMAT}")
    release, picture, sizes = FeatureSpec.from_json(header["release"]), tuple(header["picture"]), header["sizes"]
    choices = header.get("choices", {})  # files of before there was a choice have none
    if not all(isinstance(part, dict) for part in (sizes, choices, header["facts"])):
        raise TypeError("sizes, choices or facts that are no mapping")
    numbers = [*release.shape, *picture, *sizes.values()]
    if not all(type(size) is int and 1 <= size <= _LARGEST_SIZE for size in numbers) or len(picture) != 3:
        raise ValueError(f"sizes {numbers}")
    if sizes.get("blocks", 1) > tensors:
        raise ValueError(f"{sizes['blocks']} blocks from {tensors} tensors")
    if sizes.keys() & choices.keys() or not all(type(choice) is str for choice in choices.values()):
        raise ValueError(f"choices {choices}")
    with torch.device("meta"):  # a hostile header must not make us allocate more than the file holds
        inverter = _KINDS[header["kind"]](release, picture, **sizes, **choices)
        drawn = tuple(inverter.invert(torch.zeros(1, *release.shape)).shape)
    if drawn != (1, *picture):
        raise ValueError(f"pictures {drawn[1:]} instead of {picture}")
    inverter.facts = header["facts"]
    return inverter


def _fill(inverter: FittedInverter, tensors: dict[str, Tensor]) -> None:
    laid_out = dict(tensors)
    for name, value in inverter.state_dict().items():
        got = tensors.get(name)
        if got is None or got.dtype != value.dtype or got.shape != value.shape:
            found = "none" if got is None else f"{got.dtype} {tuple(got.shape)}"
            raise ValueError(f"'{name}' {found} instead of {value.dtype} {tuple(value.shape)}")
        if not bool(torch.isfinite(got).all()):
            raise ValueError(f"'{name}' with NaN or infinity")
        laid_out[name] = torch.empty_like(value, device="cpu").copy_(got)  # another layout sums in another order
    inverter.load_state_dict(laid_out, assign=True)
    inverter.eval()
