"""Generators know the attacker's pictures alone, not what is attacked: each is learned once, for all subjects.

```
$SPLITVEIL_CACHE, or ~/.cache/splitveil
└── priors/<key>.safetensors     key: of the pictures, the settings, the seed and the code; history in the header
```
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from splitveil.attacks.view import AttackerView, AuxiliaryPictures
from splitveil.data.cache import cache_folder
from splitveil.errors import OutputError
from splitveil.files import write_with
from splitveil.rng import Rng

__all__ = ["Learned", "learn_once"]

History = list[dict[str, Any]]
Network = TypeVar("Network", bound=nn.Module)

_HISTORY = "splitveil.history"
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Learned:
    """A generator, as far as it is known before it has learned.

    Args:
        name: of what is learned.
        settings: all that decides the outcome besides pictures, randomness and code.
        rng: key of the learning.
        code: classes of what teaches and of what learns: where their modules have changed, another one is learned.
        packages: that these rest on.
    """

    name: str
    settings: Mapping[str, Any]
    rng: Rng
    code: tuple[type, ...] = ()
    packages: tuple[str, ...] = ("torch",)

    def key(self, pictures: AuxiliaryPictures) -> str:
        """What it is kept under, for an attacker with these pictures."""
        versions = {package: version(package) for package in ("splitveil", *self.packages)}
        code = [inspect.getsource(sys.modules[part.__module__]) for part in self.code]
        facts = [self.name, dict(self.settings), self.rng.number(), versions, code]
        seal = sha256(json.dumps([*facts, pictures.device.type], sort_keys=True).encode())
        for x in pictures.batches(_BATCH):
            seal.update(repr(tuple(x.shape)).encode())
            seal.update(x.cpu().contiguous().numpy().tobytes())
        return f"{self.name}-{seal.hexdigest()[:32]}"


def learn_once(
    what: Learned, view: AttackerView, blank: Network, learn: Callable[[], tuple[Network, History]]
) -> tuple[Network, History]:
    """The network that `learn` returns, and its history: of an earlier call, or of now.

    Processes that want the same one wait for the first of them. Where nothing can be kept, each learns its own.

    Args:
        what: is learned.
        view: of the attacker, whose pictures it learns from.
        blank: a network of the same shape, filled where the weights are there already.
        learn: how, in evaluation mode and without gradients afterwards.
    """
    path = cache_folder("priors") / f"{what.key(view.auxiliary)}.safetensors"
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:  # a disk that takes nothing costs time, not the audit
        return learn()
    try:
        found = _read(path, blank)
        if found is None:
            found = learn()
            with suppress(OutputError):
                _write(path, *found)
        return found
    finally:
        lock.release()


def _read(path: Path, blank: Network) -> tuple[Network, History] | None:
    """None where there is no such file, or one that somebody has damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            history = json.loads((file.metadata() or {})[_HISTORY])
            blank.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError, LookupError, RuntimeError):
        return None
    return blank.requires_grad_(False).eval(), history


def _write(path: Path, network: nn.Module, history: History) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    metadata = {_HISTORY: json.dumps(history)}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
