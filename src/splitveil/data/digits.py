"""The digits that scikit-learn ships: 1,797 grey pictures of 8x8 pixels, always at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from splitveil.data.tables import ImageTable, Source, make_source
from splitveil.errors import SpecError

__all__ = ["load_digits"]

_BRIGHTEST = 16  # the data set counts set pixels in blocks of 4x4


def load_digits(path: Path | None = None) -> Source:
    """1,797 pictures ``(1, 8, 8)`` of ten digits, scaled from 0..16 to 0..255.

    Raises:
        SpecError: a path was given.

    Example:
        >>> load_digits().input_shape
        (1, 8, 8)
    """
    if path is not None:
        raise SpecError(f"source 'digits' is built in and expects no path, got '{path}': leave data.path away")
    # scikit-learn takes a second to import, and other sources do not need it
    from sklearn.datasets import load_digits as load_raw

    raw = load_raw()
    images = np.rint(raw.images * (255 / _BRIGHTEST)).astype(np.uint8)
    table = ImageTable(torch.from_numpy(images)[:, None].contiguous(), torch.from_numpy(raw.target.astype(np.int64)))
    return make_source("digits", table)
