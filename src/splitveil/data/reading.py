"""How pictures are read: into memory or into a file, of which size, and what becomes of those that do not decode."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from splitveil.errors import SpecError

__all__ = ["MEMORY_SHARE", "PLAIN", "Progress", "Reading", "memory_bytes"]

MEMORY_SHARE = 0.25
"""Pictures that take more of the machine's memory when decoded are streamed, unless told otherwise.

Splits are copies, so that a table in memory is held twice for a while."""

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

Progress = Callable[[int, int], None]
"""Called with the pictures that are decoded and their total."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Wishes of whoever loads a source.

    Args:
        progress: told (pictures decoded, total).
        stream: decode into a file and read batches from there; None where the table takes more than `MEMORY_SHARE`.
        skip_corrupt: leave out pictures that do not decode, and list them, in place of an error.
        size: side in pixels: the shorter side is resized to it, and the middle is kept. None takes pictures as they
            are, which must be of one size.

    Raises:
        SpecError: a size that is no number of pixels.

    Example:
        >>> Reading(stream=True).streams(1)
        True
    """

    progress: Progress | None = None
    stream: bool | None = None
    skip_corrupt: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise SpecError(f"expected a size of at least one pixel, got {self.size}")

    def streams(self, nbytes: int) -> bool:
        """Whether a table of so many decoded bytes goes into a file."""
        return nbytes > MEMORY_SHARE * memory_bytes() if self.stream is None else self.stream


PLAIN = Reading()
"""Without wishes."""


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less where a control group says so."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        text = file.read_text().strip() if file.is_file() else ""
        found += [int(text)] if text.isdecimal() else []
    return min(found)
