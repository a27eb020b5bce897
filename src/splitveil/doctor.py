"""What is installed, what is missing, what the machine has: facts for who asks why something does not work."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

__all__ = ["Finding", "examine"]

_DISTRIBUTION = "splitveil"
_DEVELOPERS = frozenset({"dev", "docs"})
_LEAST_FREE_BYTES = 2 * 2**30

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: of the thing.
        state: ``ok``; ``missing``: something optional is not there; ``broken``: what every command needs is not right.
        found: what there is.
        cure: what to do about it; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    cure: str = ""


def examine(folder: Path | None = None) -> list[Finding]:
    """Python, packages, extras, devices and the disk.

    Args:
        folder: whose disk runs will be written to; the current one by default.

    Example:
        >>> examine()[0].name, examine()[0].state
        ('python', 'ok')
    """
    return [
        Finding("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        *_packages(),
        *_devices(),
        _disk(folder or Path.cwd()),
    ]


def _packages() -> list[Finding]:
    core: list[Finding] = []
    extras: dict[str, list[Requirement]] = {}
    for text in requires(_DISTRIBUTION) or []:
        requirement = Requirement(text)
        extra = _extra_of(requirement)
        if requirement.name == _DISTRIBUTION:  # an extra that takes in another
            continue
        if extra is not None:
            extras.setdefault(extra, []).append(requirement)
        elif (lack := _lack(requirement)) is not None:
            core.append(Finding(requirement.name, "broken", lack, "pip install --upgrade splitveil"))
    if not core:
        core.append(Finding("core packages", "ok", f"splitveil {version(_DISTRIBUTION)}, torch {version('torch')}"))
    wanted = (extra for extra in sorted(extras) if extra not in _DEVELOPERS)
    return [*core, *(_extra(extra, extras[extra]) for extra in wanted)]


def _extra_of(requirement: Requirement) -> str | None:
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    text = str(requirement.marker)
    return text.split("extra ==")[1].split('"')[1] if "extra ==" in text else None


def _extra(name: str, requirements: list[Requirement]) -> Finding:
    lacks = [lack for lack in map(_lack, requirements) if lack is not None]
    if lacks:
        return Finding(f"extra {name}", "missing", ", ".join(lacks), f"pip install 'splitveil[{name}]'")
    found = ", ".join(f"{item.name} {version(item.name)}" for item in requirements)
    return Finding(f"extra {name}", "ok", found)


def _lack(requirement: Requirement) -> str | None:
    """What is wrong with a requirement, or None."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return f"{requirement.name} {found} is not {requirement.specifier}"
    return None


def _devices() -> list[Finding]:
    threads = f"{os.cpu_count() or 1} cores"
    try:
        import torch
    except (ImportError, OSError) as error:  # a torch whose libraries do not fit this system
        return [Finding("torch", "broken", f"cannot be imported: {error}", "pip install --force-reinstall torch")]
    cpu = Finding("processor", "ok", f"{threads}, torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = f"torch was built for CUDA {built} and finds no GPU" if built else "torch was built for the CPU"
        return [cpu, Finding("GPU", "missing", reason, "needed for the recipe 'full' only")]
    names = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return [cpu, Finding("GPU", "ok", ", ".join(names))]


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Finding("disk", "missing", f"'{folder}' cannot be written to", "choose --out elsewhere")
    text = f"{free / 2**30:.1f} GiB free in '{folder}'"
    if free < _LEAST_FREE_BYTES:
        return Finding("disk", "missing", text, "make room, or choose --out elsewhere")
    return Finding("disk", "ok", text)
