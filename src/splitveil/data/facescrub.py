"""FaceScrub in its published layout: two lists of addresses, and whatever pictures could be had of them.

```
facescrub_actors.txt   facescrub_actresses.txt        name  image_id  face_id  url  bbox  sha256, separated by tabs
anywhere/below/*.jpg                                   pictures under any name: their SHA-256 says which they are
```

A face is cut out by its box. Lines whose picture is not there, or has changed since, are passed over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from splitveil.data.cache import fingerprint
from splitveil.data.folder import picture_files
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture, decode
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import FEWEST_PER_CLASS, Source, existing_path, make_source
from splitveil.errors import InputError, MissingDataError

__all__ = ["facescrub_layout", "load_facescrub"]

_LISTS = ("facescrub_actors.txt", "facescrub_actresses.txt")
_HEADER = ("name", "image_id", "face_id", "url", "bbox", "sha256")
_SIZE = 64


@dataclass(frozen=True, slots=True)
class _Face:
    name: str
    box: tuple[int, int, int, int]


def facescrub_layout(path: Path) -> bool:
    """Whether a folder holds one of FaceScrub's lists."""
    return any((path / name).is_file() for name in _LISTS)


def load_facescrub(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """A folder with FaceScrub's lists and pictures as a source of faces; people with too few faces are left out.

    Args:
        path: the folder with the lists.
        reading: how; faces are of 64 x 64 pixels unless it says otherwise.

    Raises:
        MissingDataError: no list, or no picture that is on one.
        InputError: a line that is not as published.
    """
    root = existing_path(path, "facescrub")
    lists = [root / name for name in _LISTS if (root / name).is_file()]
    if not lists:
        raise MissingDataError(f"expected {' or '.join(_LISTS)} in '{root}', got neither: copy the lists there")
    listed: dict[str, list[_Face]] = {}
    for file in lists:
        _read(file, listed)
    files = [file for file in picture_files(root) if file not in lists]
    found = [(file, face) for file in files for face in listed.get(_digest(file), ())]
    names = sorted({face.name for _, face in found})
    counts = {name: sum(face.name == name for _, face in found) for name in names}
    people = [name for name in names if counts[name] >= FEWEST_PER_CLASS]
    chosen = [(file, face) for file, face in found if face.name in people]
    if not chosen:
        raise MissingDataError(
            f"expected at least {FEWEST_PER_CLASS} pictures of a person of the lists in '{root}', got "
            f"{max(counts.values(), default=0)} ({len(files)} files, of which {len(found)} are on a list)"
        )
    labels = torch.tensor([people.index(face.name) for _, face in chosen])
    pictures: list[Picture] = [(f"'{file}' {face.box}", partial(_crop, file, face.box)) for file, face in chosen]
    wish = Reading(reading.progress, reading.stream, reading.skip_corrupt, reading.size or _SIZE)
    gathered = gather_pictures(pictures, len(pictures), wish, lambda: fingerprint([*lists, *files]))
    table, _ = gathered.tables(labels, len(labels))
    return make_source(root.resolve().name, table, None, people, skipped=gathered.skipped)


def _read(file: Path, listed: dict[str, list[_Face]]) -> None:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if tuple(lines[0].split("\t") if lines else ()) != _HEADER:
        raise InputError(f"expected the header {' '.join(_HEADER)} in '{file}', got {(lines or [''])[0][:60]!r}")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        box = cells[4].split(",") if len(cells) == len(_HEADER) else []
        if len(box) != 4 or not all(side.strip().lstrip("-").isdecimal() for side in box):
            raise InputError(f"expected {len(_HEADER)} cells and a box in line {number} of '{file}', got {line[:60]!r}")
        left, top, right, bottom = (int(side) for side in box)
        listed.setdefault(cells[5].strip().lower(), []).append(_Face(cells[0], (left, top, right, bottom)))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _crop(file: Path, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    pixels = decode(BytesIO(file.read_bytes()), f"'{file}'")
    left, top, right, bottom = box
    face = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not face.size:
        raise InputError(f"expected a face inside the picture '{file}', got the box {box}: remove the line or the file")
    return np.ascontiguousarray(face)
