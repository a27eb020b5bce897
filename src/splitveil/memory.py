"""How this process asks the system for memory."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST_MAPPED = 32 * 2**20  # the most that glibc takes
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Reuse memory that tensors free, instead of giving it back and asking for it again at every step.

    By default glibc maps blocks of 128 KiB and more anew and gives the end of its heap back, so that each tensor of a
    step is zeroed by the system page by page before it is written. For processes that train on a CPU: up to 2 GiB that
    were freed stay theirs. In scripts of your own, ``MALLOC_MMAP_THRESHOLD_=33554432
    MALLOC_TRIM_THRESHOLD_=2147483647`` in the environment does the same.

    Returns:
        Whether it took effect: on Linux with glibc.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if set_option is None:
        return False
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST_MAPPED) and set_option(_TRIM_THRESHOLD, _KEPT))
