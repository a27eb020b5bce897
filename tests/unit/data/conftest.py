"""Small data sets, made on the spot."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Encode = Callable[..., bytes]
WriteParquet = Callable[..., Path]
WriteFolder = Callable[..., Path]


def encode_picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 5), form: str = "PNG") -> bytes:
    """A picture of noise as the bytes of a file; the size is (width, height)."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode=None if mode in ("L", "RGB", "RGBA", "LA") else mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Encode:
    return encode_picture


@pytest.fixture
def write_parquet() -> WriteParquet:
    """Write bytes and labels in the hub's layout."""

    def write(
        file: Path,
        contents: Sequence[bytes | None],
        labels: Sequence[int | None],
        names: Sequence[str] | None = None,
        **columns: Any,
    ) -> Path:
        cells = [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(contents)]
        image = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        table = pa.table(columns or {"image": image, "label": pa.array(labels, pa.int64())})
        if names is not None:
            features = {"label": {"names": list(names), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, row_group_size=7)
        return file

    return write


@pytest.fixture
def write_folder() -> WriteFolder:
    """Write `count` pictures into each class folder."""

    def write(root: Path, classes: Sequence[str], count: int = 8, seed: int = 0) -> Path:
        for number, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for index in range(count):
                content = encode_picture(seed=1000 * seed + 100 * number + index)
                (root / name / f"{index}.png").write_bytes(content)
        return root

    return write
