"""Which devices compute bfloat16 with instructions of its own, and computing so where they do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

__all__ = ["half_precision", "has_bfloat16"]

_AMPERE = (8, 0)
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: GPUs since Ampere, CPUs with AVX-512 BF16 or AMX.

    Example:
        >>> has_bfloat16(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return device.type == "cpu" and _cpu_has_bfloat16()


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """For the networks of attackers and inner adversaries as they train: bfloat16 where the device has it.

    Example:
        >>> with half_precision(torch.device("cpu")):
        ...     torch.nn.Linear(2, 3)(torch.zeros(1, 2)).shape
        torch.Size([1, 3])
    """
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else nullcontext()


@cache
def _cpu_has_bfloat16() -> bool:
    ask = getattr(torch.cpu, "get_capabilities", dict)  # of torch 2.12 and later
    told: dict[str, Any] = ask()
    return any(bool(told.get(name)) for name in _INSTRUCTIONS)
