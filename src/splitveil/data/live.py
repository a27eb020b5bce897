"""What stands in a record for pictures that were passed from Python."""

from __future__ import annotations

from pathlib import Path

from splitveil.data.tables import Source
from splitveil.errors import MissingDataError

__all__ = ["load_live"]


def load_live(path: Path | None) -> Source:
    """Nothing: the pictures were in somebody's memory.

    Raises:
        MissingDataError: always; it says how to pass them again.
    """
    raise MissingDataError(
        "this run was trained on a data set that was passed from Python: pass it again as data=..., in Python"
    )
