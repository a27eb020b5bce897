"""Pictures with labels, and where they come from; what holds for every source is checked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitveil.data.reading import Progress as Progress
from splitveil.data.rows import Rows, join_rows, take_rows
from splitveil.errors import InputError, MissingDataError, SpecError

__all__ = [
    "FEWEST_PER_CLASS",
    "ImageTable",
    "Progress",
    "Source",
    "check_labels",
    "check_shapes",
    "existing_path",
    "join_tables",
    "make_source",
]

FEWEST_PER_CLASS = 8
"""With fewer pictures of a class the four splits cannot all get a usable share."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageTable:
    """Pictures of one size with their labels.

    Args:
        images: ``(n, c, h, w)``, uint8, in memory or in a file.
        labels: ``(n,)``, int64: classes, or the groups that pictures without classes are stratified by.
        targets: what a task other than classification learns: values ``(n, t)`` float32, or masks ``(n, h, w)`` uint8.

    Example:
        >>> table = ImageTable(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        >>> len(table.take(torch.tensor([1, 3])))
        2
    """

    images: Rows
    labels: Tensor
    targets: Rows | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise InputError(
                f"expected images of shape (n, c, h, w) and type uint8, got {tuple(self.images.shape)} "
                f"and {self.images.dtype}: scale them to 0..255 and stack them"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise InputError(
                f"expected labels of shape ({len(self.images)},) and type int64, got {tuple(self.labels.shape)} "
                f"and {self.labels.dtype}: pass one whole number per picture"
            )
        if self.targets is not None and not _is_target(self.targets, self.images):
            raise InputError(
                f"expected values ({len(self.images)}, t) in float32 or masks ({len(self.images)}, "
                f"{self.images.shape[2]}, {self.images.shape[3]}) in uint8, got {tuple(self.targets.shape)} in "
                f"{self.targets.dtype}: pass one target per picture"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> ImageTable:
        """The pictures at these indices, ``(m,)`` int64: a copy of those in memory, a selection of those in a file."""
        targets = None if self.targets is None else take_rows(self.targets, indices)
        return ImageTable(take_rows(self.images, indices), self.labels[indices], targets)


def join_tables(tables: Sequence[ImageTable]) -> ImageTable:
    """The pictures of several tables of one source, one after the other.

    Example:
        >>> table = ImageTable(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        >>> len(join_tables([table, table]))
        8
    """
    targets = [table.targets for table in tables if table.targets is not None]
    return ImageTable(
        join_rows([table.images for table in tables]),
        torch.cat([table.labels for table in tables]),
        join_rows(targets) if targets else None,
    )


def _is_target(targets: Rows, images: Rows) -> bool:
    if targets.dtype == torch.float32:
        return targets.ndim == 2 and len(targets) == len(images)
    return targets.dtype == torch.uint8 and tuple(targets.shape) == (len(images), *images.shape[2:])


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set as it was read: one table, or a train and a test table. Build it with `make_source`.

    Args:
        name: shown in records.
        train: the pictures to split.
        test: a test table of the source's own.
        class_names: of the labels.
        edges: between the groups that pictures with values are stratified by.
        skipped: pictures that did not decode and were left out, because that was asked for.
    """

    name: str
    train: ImageTable
    test: ImageTable | None
    class_names: tuple[str, ...]
    edges: tuple[float, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """k, the number of classes."""
        return len(self.class_names)


def make_source(
    name: str,
    train: ImageTable,
    test: ImageTable | None = None,
    class_names: Sequence[str] | None = None,
    *,
    skipped: Sequence[str] = (),
) -> Source:
    """A source whose tables keep what the rest of the package relies on.

    Args:
        name: shown in records.
        train: the pictures to split.
        test: a test table of the source's own.
        class_names: one per label; the label's number without.
        skipped: names of pictures that were left out.

    Raises:
        InputError: no pictures, labels with a hole, too few classes or pictures of a class, or tables that differ.

    Example:
        >>> table = ImageTable(torch.zeros(16, 1, 8, 8, dtype=torch.uint8), torch.arange(16) % 2)
        >>> make_source("mine", table).class_names
        ('0', '1')
    """
    names = check_labels(train.labels, class_names)
    check_shapes(name, train, test)
    if test is not None:
        _check_test_labels(test.labels, names)
    return Source(name, train, test, names, skipped=tuple(skipped))


def check_shapes(name: str, train: ImageTable, test: ImageTable | None) -> None:
    """Raise `InputError` unless both tables hold pictures of one shape."""
    if min(train.images.shape[1:]) < 1:
        raise InputError(f"expected pictures with pixels in '{name}', got shape {tuple(train.images.shape[1:])}")
    if test is not None and test.images.shape[1:] != train.images.shape[1:]:
        raise InputError(
            f"expected test pictures of shape {tuple(train.images.shape[1:])} as in the train table of '{name}', "
            f"got {tuple(test.images.shape[1:])}: resize or convert one of the two"
        )


def check_labels(labels: Tensor, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The class names of these labels, ``(n,)`` int64, which must be 0 to k-1 without a hole.

    Raises:
        InputError: naming the label or the class at fault.
    """
    if not len(labels):
        raise InputError("expected at least one picture, got an empty table: check the path and the file")
    values, counts = np.unique(labels.numpy(), return_counts=True)
    present: set[int] = set(values.tolist())
    classes = max(present) + 1 if class_names is None else len(class_names)
    if min(present) < 0 or max(present) >= classes:
        wrong = min(present) if min(present) < 0 else max(present)
        raise InputError(
            f"expected labels from 0 to {classes - 1}, got {wrong} (of {int((labels == wrong).sum())} pictures): "
            "renumber the labels, and remove pictures without one"
        )
    missing = list(islice((label for label in range(classes) if label not in present), 5))
    if missing:
        shown = ", ".join(
            str(label) if class_names is None else f"{label} ('{class_names[label]}')" for label in missing
        )
        more = "" if classes - len(present) == len(missing) else f" and {classes - len(present) - len(missing)} more"
        raise InputError(
            f"expected labels 0 to {classes - 1} without a hole, got no picture with label {shown}{more}: "
            "renumber the labels, or add pictures of that class"
        )
    names = tuple(class_names) if class_names is not None else tuple(str(label) for label in range(classes))
    _check_names(names)
    for name, count in zip(names, counts.tolist(), strict=True):
        if count < FEWEST_PER_CLASS:
            raise InputError(
                f"expected at least {FEWEST_PER_CLASS} pictures per class, so that each split gets some, "
                f"got {count} of class '{name}': add pictures, or remove the class"
            )
    return names


def _check_names(names: tuple[str, ...]) -> None:
    if len(names) < 2:
        raise InputError(f"expected at least two classes, got one ('{names[0]}'): add pictures of another class")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"expected class names that differ, got '{twice[0]}' more than once: rename the class")


def _check_test_labels(labels: Tensor, names: tuple[str, ...]) -> None:
    present = set(np.unique(labels.numpy()).tolist())
    extra = sorted(present - set(range(len(names))))
    if extra:
        raise InputError(
            f"expected test labels from 0 to {len(names) - 1}, as in the train table, got {extra[0]}: "
            "remove those pictures, or add the class to the train table"
        )
    missing = [name for label, name in enumerate(names) if label not in present]
    if missing:
        raise InputError(
            f"expected test pictures of all {len(names)} classes, got none of class '{missing[0]}': "
            "add some, or leave the test table away and have one split off"
        )


def existing_path(path: Path | None, source: str) -> Path:
    """The path of a source that is read from disk.

    Raises:
        SpecError: none was given.
        MissingDataError: nothing is there.
    """
    if path is None:
        raise SpecError(f"source '{source}' expects a path, got none: set data.path, or pass the path itself as data")
    path = Path(path).expanduser()
    if not path.exists():
        raise MissingDataError(f"expected pictures at '{path}', got no such file or folder: check the path")
    return path
