"""What a run ran on: versions, machine, digest of the source."""

from __future__ import annotations

import os
import platform
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from splitveil.errors import InputError

__all__ = ["describe_environment", "pick_device", "source_digest"]

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow", "pyarrow")


def pick_device(name: str | None = None) -> torch.device:
    """The device of that name, or the first CUDA device, or the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is not None:
        try:
            return torch.zeros(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(". ")
            raise InputError(
                f"expected a device of this machine, such as cpu or cuda:0, got '{name}' ({reason}): choose another"
            ) from error
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Flat plain data for ``env.json``."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "splitveil": _version("splitveil"),
        "source_digest": source_digest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": str(device),
        **gpu,
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def source_digest() -> str:
    """Of the code that runs: two machines with the same one compute the same."""
    root = Path(__file__).parents[1]
    digest = sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
