"""Pictures: where they come from, how they are split, and how they reach a device."""

from __future__ import annotations

from pathlib import Path

from splitveil.data.augment import augment
from splitveil.data.datasets import from_dataset
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures, steps
from splitveil.data.reading import PLAIN, Progress, Reading
from splitveil.data.sources import guess_source, load_source
from splitveil.data.splits import Splits, make_splits
from splitveil.data.tables import ImageTable, Source, make_source

__all__ = [
    "ImageTable",
    "Pictures",
    "Progress",
    "Reading",
    "Source",
    "Splits",
    "augment",
    "from_dataset",
    "guess_source",
    "hold",
    "load_data",
    "load_source",
    "make_source",
    "make_splits",
    "steps",
]


def load_data(data: str | Path, reading: Reading = PLAIN) -> Source:
    """Load a built-in name such as ``digits``, a folder or file of parquet tables, or a folder of class folders.

    Raises:
        MissingDataError: nothing is there.
        InputError: what is there is not usable; the message says why.

    Example:
        >>> load_data("digits").name
        'digits'
    """
    return load_source(*guess_source(str(data)), reading)
