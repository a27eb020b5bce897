"""Which devices compute bfloat16 with instructions of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

__all__ = ["has_bfloat16"]

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


@cache
def _cpu_has_bfloat16() -> bool:
    ask = getattr(torch.cpu, "get_capabilities", dict)  # of torch 2.12 and later
    told: dict[str, Any] = ask()
    return any(bool(told.get(name)) for name in _INSTRUCTIONS)
