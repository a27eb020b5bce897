"""A folder with one sub-folder of pictures per class.

```
faces/anna/1.png ...        one table                     faces/train/anna/1.png ...      two tables, the same classes;
faces/bert/1.png ...                                      faces/test/anna/9.png ...       val/ is added to train
```
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from splitveil.data.cache import fingerprint
from splitveil.data.gathering import gather_pictures
from splitveil.data.images import Picture
from splitveil.data.reading import PLAIN, Reading
from splitveil.data.tables import Source, check_labels, existing_path, make_source
from splitveil.errors import InputError, MissingDataError

__all__ = ["check_inside", "class_folders", "load_folder", "picture_files"]

_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini"})
_VALIDATION = frozenset({"val", "validation"})


@dataclass(frozen=True, slots=True)
class _Scan:
    class_names: tuple[str, ...]
    files: list[Path]
    labels: list[int]


def load_folder(path: Path | None, *, reading: Reading = PLAIN) -> Source:
    """A folder of class folders as a source; labels follow the sorted names of the class folders.

    Args:
        path: the folder.
        reading: how.

    Raises:
        MissingDataError: nothing is there, or nothing is in it.
        InputError: an empty class, a file that is no picture, a link out of the folder, or parts whose classes differ.
    """
    root = existing_path(path, "folder")
    if not root.is_dir():
        raise InputError(f"expected a folder of class folders at '{root}', got a file: pass the folder that holds it")
    names = [folder.name for folder in class_folders(root)]
    if not names:
        raise MissingDataError(f"expected one sub-folder of pictures per class in '{root}', got none: check the path")
    if {"train", "test"} <= set(names):
        learn, test = _scan_parts(root, names)
    else:
        learn, test = [_scan(root, root)], None
    scans = [*learn, *([test] if test else [])]
    learn_labels = torch.tensor([label for scan in learn for label in scan.labels])
    check_labels(learn_labels, scans[0].class_names)
    pictures: list[Picture] = [(f"'{file}'", partial(_open, file)) for scan in scans for file in scan.files]
    gathered = gather_pictures(
        pictures, len(pictures), reading, lambda: fingerprint(file for scan in scans for file in scan.files)
    )
    labels = torch.tensor([label for scan in scans for label in scan.labels])
    table, test_table = gathered.tables(labels, len(learn_labels))
    return make_source(root.resolve().name, table, test_table, scans[0].class_names, skipped=gathered.skipped)


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def class_folders(root: Path) -> list[Path]:
    """The sub-folders of a folder by name, hidden ones left out."""
    return sorted(item for item in root.iterdir() if item.is_dir() and not item.name.startswith("."))


def picture_files(root: Path) -> list[Path]:
    """All files below a folder, at any depth, by name; hidden ones and those of desktops are left out.

    Raises:
        InputError: a link out of the folder.
    """
    found: list[Path] = []
    for item in sorted(root.iterdir()):
        if _ignored(item):
            continue
        check_inside(item, root)
        found += picture_files(item) if item.is_dir() and not item.is_symlink() else [item] if item.is_file() else []
    return found


def _scan_parts(root: Path, names: list[str]) -> tuple[list[_Scan], _Scan]:
    other = sorted(set(names) - {"train", "test"} - _VALIDATION)
    if other:
        raise InputError(
            f"expected only train, test and val beside each other in '{root}', got '{other[0]}' too: "
            "move it into train, or rename the class folders"
        )
    learn = [_scan(root / "train", root), *(_scan(root / name, root) for name in names if name in _VALIDATION)]
    test = _scan(root / "test", root)
    for scan, name in [*((scan, "val") for scan in learn[1:]), (test, "test")]:
        differing = sorted(set(scan.class_names) ^ set(learn[0].class_names))
        if differing:
            here = name if differing[0] in scan.class_names else "train"
            raise InputError(
                f"expected the same class folders in train and {name} of '{root}', got '{differing[0]}' only in {here}"
                ": add or remove that class"
            )
    return learn, test


def _scan(folder: Path, root: Path) -> _Scan:
    check_inside(folder, root)
    classes = class_folders(folder)
    if not classes:
        raise MissingDataError(f"expected one sub-folder of pictures per class in '{folder}', got none")
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        check_inside(class_folder, root)
        found = sorted(item for item in class_folder.iterdir() if not _ignored(item))
        if not found:
            raise InputError(f"expected pictures in the class folder '{class_folder}', got none: add some or remove it")
        for item in found:
            check_inside(item, root)
            if not item.is_file():
                raise InputError(
                    f"expected only pictures in the class folder '{class_folder}', got '{item.name}', "
                    f"which is {'a folder' if item.is_dir() else 'no ordinary file'}: move it away"
                )
        files += found
        labels += [label] * len(found)
    return _Scan(tuple(item.name for item in classes), files, labels)


def _ignored(item: Path) -> bool:
    return item.name.startswith(".") or item.name.lower() in _IGNORED_FILES


def check_inside(item: Path, root: Path) -> None:
    """Raise `InputError` for a link that leaves `root`, or leads nowhere.

    A folder from elsewhere must not make us read, and later report, other files of this machine.
    """
    if not item.is_symlink() or item == root:
        return
    try:
        inside = item.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # 3.11 reports a link to itself as RuntimeError
        raise InputError(f"expected a picture at '{item}', got a link that leads nowhere: remove it") from error
    if not inside:
        raise InputError(
            f"expected pictures inside '{root}', got the link '{item}' that leaves it: copy the file there"
        )
