"""From PyTorch's own files to safetensors, for weights alone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors.torch import save_file
from torch import Tensor

from splitveil.errors import InputError, MissingDataError, OutputError
from splitveil.files import write_with

__all__ = ["convert_weights"]

_BELOW = ("state_dict", "model_state_dict", "model", "net")
_PARALLEL = "module."


def convert_weights(file: Path, out: Path) -> list[str]:
    """Read a file by ``weights_only=True`` and write its tensors as safetensors.

    A state under ``state_dict`` or ``model`` is found; the prefix ``module.`` of data parallel training is taken off.

    Args:
        file: of `torch.save`.
        out: a file that is not there yet.

    Returns:
        The names of the tensors.

    Raises:
        MissingDataError: there is no such file.
        InputError: it holds more than tensors, which only running its code could read; or none.
        OutputError: `out` is there already.
    """
    if not file.is_file():
        raise MissingDataError(f"expected weights in '{file}', got no file: check the path")
    if out.exists():
        raise OutputError(f"'{out}' is there already: choose another --out, or move it away")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, BadZipFile, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"expected nothing but tensors in '{file}', got {reason}: save model.state_dict() where you trust the file"
        ) from error
    tensors = {name.removeprefix(_PARALLEL): value for name, value in _state(file, found).items()}
    plain = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    write_with(out, lambda temporary: save_file(plain, temporary))
    return sorted(plain)


def _state(file: Path, found: Any) -> dict[str, Tensor]:
    for key in _BELOW:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise InputError(f"expected a state of named tensors in '{file}', got {type(found).__name__}")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"expected tensors in '{file}', got {', '.join(list(found)[:5]) or 'nothing'}")
    return tensors
