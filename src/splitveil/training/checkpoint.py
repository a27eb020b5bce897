"""Checkpoints: one safetensors file with the place in training in its header, replaced whole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from splitveil.errors import InputError
from splitveil.files import write_with

__all__ = ["CheckpointStore", "Place", "gather", "scatter"]


@dataclass
class Place:
    """Where training stands between two steps, and for how long all processes have been at it."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    best: dict[str, Any] | None = None
    last_validation: float | None = None
    validations: list[float] = field(default_factory=list)
    reference: float | None = None
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    edits: str = "[]"
    log_size: int = 0
    elapsed_s: float = 0.0


class CheckpointStore:
    """Saves at most every `interval_s`, or when told; a kill at any moment leaves the last one whole.

    Args:
        path: the file.
        fingerprint: digest of the spec; a checkpoint of another spec is refused.
        interval_s: between saves in mid-epoch.
    """

    def __init__(self, path: Path, fingerprint: str, interval_s: float = 30.0) -> None:
        self.path, self.fingerprint, self.interval_s = path, fingerprint, interval_s
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval has passed since the last save."""
        return time.monotonic() - self._last >= self.interval_s

    def save(self, tensors: Mapping[str, Tensor], place: Place) -> None:
        """Replace the checkpoint."""
        header = {"fingerprint": self.fingerprint, "place": json.dumps(asdict(place))}
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_with(self.path, lambda temporary: save_file(plain, temporary, header))
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], Place] | None:
        """The checkpoint, or None where there is none.

        Raises:
            InputError: the file is damaged, or belongs to another spec.
        """
        self._sweep()
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            place = Place(**json.loads(header["place"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"expected a checkpoint in '{self.path}', got {error}: remove the file to begin again"
            ) from error
        if header.get("fingerprint") != self.fingerprint:
            raise InputError(f"the checkpoint '{self.path}' belongs to another spec: choose another --out")
        return tensors, place

    def remove(self) -> None:
        """Training is done."""
        self.path.unlink(missing_ok=True)
        self._sweep()
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _sweep(self) -> None:
        """Remove what a kill within a save has left."""
        for orphan in self.path.parent.glob(f".{self.path.name}.*"):
            orphan.unlink(missing_ok=True)


def gather(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, extra: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All tensors of a training state by name."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer/{index}/{key}": value for key, value in state.items() if isinstance(value, Tensor)})
    return {**tensors, **{f"extra/{name}": value for name, value in extra.items()}}


def scatter(
    tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Put a training state back; returns the extra tensors."""
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, name))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "optimizer").items():
        index, _, entry = key.partition("/")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    _lay_out_like_parameters(optimizer)
    return _below(tensors, "extra")


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Files hold rows in order; fused kernels walk through weights and their moments as they lie in memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = name + "/"
    keys: Iterable[str] = (key for key in tensors if key.startswith(prefix))
    return {key[len(prefix) :]: tensors[key] for key in keys}
