"""Train, validation, test and auxiliary pictures: disjoint, stratified, without a picture in two of them, sealed.

```
source has a test table:   train table ─► train | val | aux       test table ─► test
source has one table:      the table   ─► train | val | aux | test
```
`aux` is the attacker's: pictures of the same kind that the model has not seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from splitveil.data.rows import chunks
from splitveil.data.tables import ImageTable, Source
from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng

__all__ = ["Splits", "make_splits", "picture_digests"]

_FEWEST_TEST = 1000
"""A smaller test table is not cut by `limit`: intervals would get too wide."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """Four tables without a common picture.

    Args:
        train: what the model learns from.
        val: for choices during training.
        test: for every number that is reported.
        aux: the attacker's own pictures.
        digest: SHA-256 over class names, shapes, labels, pictures and targets of the four, in this order.
        duplicates: pictures left out because the source's test table holds the same bytes.
    """

    train: ImageTable
    val: ImageTable
    test: ImageTable
    aux: ImageTable
    digest: str
    duplicates: int

    @property
    def sizes(self) -> dict[str, int]:
        """Pictures per split."""
        return {name: len(table) for name, table in self._tables().items()}

    def _tables(self) -> dict[str, ImageTable]:
        return {"train": self.train, "val": self.val, "test": self.test, "aux": self.aux}


def make_splits(
    source: Source, *, val_share: float, aux_share: float, test_share: float, limit: int | None = None, rng: Rng
) -> Splits:
    """Split a source; the same source, shares, limit and key give the same splits.

    Within each class the shares hold to one picture, as far as copies and tiny classes allow. Copies of a picture
    (equal bytes) stay together in one split, and those of a picture in a separate test table are left out.

    Args:
        source: where the pictures come from.
        val_share: of the pictures that are split.
        aux_share: likewise.
        test_share: likewise; not used where the source has a test table.
        limit: the most pictures to split, stratified. A test table is cut by the same ratio, not below 1,000.
        rng: decides which picture goes where.

    Raises:
        SpecError: shares that leave nothing to train on.
        InputError: a class with too few different pictures to be in every split.

    Example:
        >>> from splitveil.data.digits import load_digits
        >>> make_splits(load_digits(), val_share=0.1, aux_share=0.25, test_share=0.2, rng=Rng(0)).sizes
        {'train': 809, 'val': 179, 'test': 359, 'aux': 450}
    """
    shares = _shares(val_share, aux_share, test_share if source.test is None else None)
    if limit is not None and limit < 1:
        raise SpecError(f"expected limit >= 1 or None, got {limit}")
    labels = source.train.labels.numpy()
    content = picture_digests(source.train)
    pool = np.arange(len(labels))
    test = source.test
    if test is not None:
        pool = pool[~np.isin(content, picture_digests(test))]
    duplicates = len(labels) - len(pool)
    if limit is not None and limit < len(pool):
        ratio = limit / len(pool)
        pool = pool[_subsample(labels[pool], limit, rng.child("limit"))]
        if test is not None:
            size = max(round(len(test) * ratio), min(_FEWEST_TEST, len(test)))
            test = test.take(torch.from_numpy(_subsample(test.labels.numpy(), size, rng.child("limit", "test"))))
    parts = _assign(labels[pool], content[pool], shares, rng.child("parts"))
    _check_presence(labels[pool], parts, list(shares), source.class_names, duplicates)
    tables = {
        name: source.train.take(torch.from_numpy(pool[parts == number])) for number, name in enumerate(shares)
    } | ({"test": test} if test is not None else {})
    digest = _digest([tables[name] for name in ("train", "val", "test", "aux")], source.class_names)
    return Splits(tables["train"], tables["val"], tables["test"], tables["aux"], digest, duplicates)


def _shares(val_share: float, aux_share: float, test_share: float | None) -> dict[str, float]:
    asked = {"val": val_share, "aux": aux_share} | ({} if test_share is None else {"test": test_share})
    for name, share in asked.items():
        if not 0 < share < 1:
            raise SpecError(f"expected {name}_share between 0 and 1, got {share}")
    rest = 1.0 - sum(asked.values())
    if rest <= 1e-9:
        listed = ", ".join(f"{name}_share {share:g}" for name, share in asked.items())
        raise SpecError(f"expected shares that leave some pictures to train on, got {listed}: lower one of them")
    return {"train": rest, **asked}


def picture_digests(table: ImageTable) -> NDArray[np.bytes_]:
    """One 128-bit digest per picture, ``(n,)``: equal pictures have equal ones."""
    digests = bytearray()
    for chunk in chunks(table.images):
        rows = chunk.cpu().contiguous().numpy().reshape(len(chunk), -1)
        digests += b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    return np.frombuffer(bytes(digests), dtype="V16")


def _subsample(labels: Indices, size: int, rng: Rng) -> Indices:
    """Sorted indices of about `size` pictures, each class by its share and none lost."""
    draw = rng.numpy()
    values, counts = np.unique(labels, return_counts=True)
    quotas = counts * (size / len(labels))
    take = np.floor(quotas + 1e-9).astype(np.int64)
    order = np.lexsort((draw.random(len(values)), -np.round(quotas - take, 9)))
    take[order[: size - int(take.sum())]] += 1
    take = np.maximum(take, 1)
    chosen = [
        draw.permutation(np.flatnonzero(labels == value))[:count] for value, count in zip(values, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _assign(labels: Indices, content: NDArray[np.bytes_], shares: dict[str, float], rng: Rng) -> Indices:
    """The part of each picture, ``(n,)``: the class decides the quotas, a group of copies moves as one."""
    _, first, group = np.unique(content, return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    group_label = labels[first]
    part_of_group = np.empty(len(first), dtype=np.int64)
    for label in np.unique(group_label):
        members = np.flatnonzero(group_label == label)
        # np.unique sorts groups by digest; order of appearance keeps the result a function of positions
        members = members[np.argsort(first[members])]
        part_of_group[members] = _assign_class(sizes[members], list(shares.values()), rng.child(int(label)))
    return part_of_group[group]


def _assign_class(sizes: Indices, shares: list[float], rng: Rng) -> list[int]:
    """The part of each group of one class.

    Each group goes where most pictures are lacking. With single pictures this is the largest-remainder rule, so the
    large groups go first; a part that would stay empty comes before the others.
    """
    draw = rng.numpy()
    shuffled = draw.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    # so small that it only decides between equal remainders
    ties = draw.permutation(len(shares)) * 1e-7
    lacking = [share * float(sizes.sum()) + tie for share, tie in zip(shares, ties.tolist(), strict=True)]
    empty = set(range(len(shares)))
    parts = [0] * len(sizes)
    for left, member in zip(range(len(order), 0, -1), order.tolist(), strict=True):
        candidates = empty if left <= len(empty) else range(len(shares))
        part = max(candidates, key=lacking.__getitem__)
        parts[member] = part
        lacking[part] -= float(sizes[member])
        empty.discard(part)
    return parts


def _check_presence(
    labels: Indices, parts: Indices, names: list[str], class_names: tuple[str, ...], left_out: int
) -> None:
    for label, class_name in enumerate(class_names):
        present = set(parts[labels == label].tolist())
        missing = [name for number, name in enumerate(names) if number not in present]
        if missing:
            raise InputError(
                f"expected pictures of class '{class_name}' in each of {', '.join(names)}, got "
                f"{int((labels == label).sum())}, which leave none for {', '.join(missing)} (copies of a picture stay "
                f"together; {left_out} that the test table holds too were left out): "
                "raise limit, add different pictures, or remove the class"
            )


def _digest(tables: list[ImageTable], class_names: tuple[str, ...]) -> str:
    seal = hashlib.sha256(json.dumps(class_names).encode())
    for table in tables:
        seal.update(json.dumps(list(table.images.shape)).encode())
        seal.update(np.ascontiguousarray(table.labels.numpy(), dtype="<i8").data)
        for rows in (table.images, *(() if table.targets is None else (table.targets,))):
            for chunk in chunks(rows):
                seal.update(chunk.contiguous().numpy().data)
    return seal.hexdigest()
