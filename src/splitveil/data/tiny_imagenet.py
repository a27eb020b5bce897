"""TinyImageNet in its published layout: ``tiny-imagenet-200.zip``, unpacked.

```
wnids.txt   words.txt   train/n01443537/images/*.JPEG ...   val/images/*.JPEG   val/val_annotations.txt
```

The pictures of ``val`` are the test table: those of ``test`` have no labels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from splitveil.data.cache import fingerprint
from splitveil.data.folder import check_inside
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source, existing_path, make_source
from splitveil.errors import InputError, MissingDataError

__all__ = ["load_tiny_imagenet", "tiny_imagenet_layout"]

_PICTURES = frozenset({".jpeg", ".jpg", ".png"})


def tiny_imagenet_layout(path: Path) -> bool:
    """Whether a folder looks like TinyImageNet."""
    return (path / "wnids.txt").is_file() and (path / "val" / "val_annotations.txt").is_file()


def load_tiny_imagenet(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """A folder of TinyImageNet as a source; classes are those of ``wnids.txt`` that have pictures, by their words.

    Args:
        path: the folder that holds ``wnids.txt``.
        reading: how.

    Raises:
        MissingDataError: a part of the layout is missing.
        InputError: an annotation of an unknown class, or a file that is no picture.
    """
    root = existing_path(path, "tiny_imagenet")
    if not tiny_imagenet_layout(root):
        raise MissingDataError(
            f"expected wnids.txt and val/val_annotations.txt in '{root}': unpack tiny-imagenet-200.zip"
        )
    classes = [line.strip() for line in (root / "wnids.txt").read_text().splitlines() if line.strip()]
    places = {name: place for place, name in enumerate(classes)}
    strange = [name for name in classes if Path(name).name != name or name == ".."]
    if strange:
        raise InputError(f"expected names of folders in wnids.txt of '{root}', got {strange[0][:60]!r}: unpack it anew")
    learn = [(file, places[name]) for name in classes for file in _pictures(root, "train", name, "images")]
    if not learn:
        raise MissingDataError(f"expected pictures in '{root / 'train'}', got none: unpack tiny-imagenet-200.zip anew")
    test = _annotated(root, places)
    pictures: list[Picture] = [(f"'{file}'", partial(_open, file)) for file, _ in (*learn, *test)]
    gathered = gather_pictures(
        pictures, len(pictures), reading, lambda: fingerprint(file for file, _ in (*learn, *test))
    )
    table, test_table = gathered.tables(torch.tensor([label for _, label in (*learn, *test)]), len(learn))
    names = _words(root / "words.txt", classes)
    return make_source(root.resolve().name, table, test_table, names, skipped=gathered.skipped)


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def _pictures(root: Path, *parts: str) -> list[Path]:
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        raise MissingDataError(
            f"expected the pictures of a class in '{folder}', got no folder: unpack the archive anew"
        )
    found = sorted(item for item in folder.iterdir() if item.suffix.lower() in _PICTURES)
    _check_links(root, [*(root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)), *found])
    return found


def _check_links(root: Path, items: list[Path]) -> None:
    for item in items:
        check_inside(item, root)


def _annotated(root: Path, places: dict[str, int]) -> list[tuple[Path, int]]:
    """Pictures of ``val`` and their labels, in the order of the annotations."""
    found: list[tuple[Path, int]] = []
    for number, line in enumerate((root / "val" / "val_annotations.txt").read_text().splitlines(), 1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in places or Path(name).name != name:
            raise InputError(
                f"expected a picture and a known class in line {number} of val_annotations.txt, got {line[:60]!r}"
            )
        found.append((root / "val" / "images" / name, places[wnid]))
    _check_links(root, [root / "val", root / "val" / "images", *(file for file, _ in found if file.exists())])
    return found


def _words(file: Path, classes: list[str]) -> list[str]:
    """What the classes are called, their numbers where that is not told."""
    if not file.is_file():
        return classes
    told = dict(line.split("\t", 1) for line in file.read_text().splitlines() if "\t" in line)
    return [told.get(name, name).split(",")[0].strip() for name in classes]
