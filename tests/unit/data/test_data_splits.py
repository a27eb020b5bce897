"""Splits: disjoint, stratified, without copies across, sealed."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from splitveil.data.splits import Splits, make_splits
from splitveil.data.tables import ImageTable, Source, make_source
from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng

SHARES = {"val_share": 0.1, "aux_share": 0.25, "test_share": 0.2}
NAMES = ("train", "val", "test", "aux")


def numbered(labels: list[int], start: int = 0, copies: dict[int, int] | None = None) -> ImageTable:
    """Pictures (1, 2, 2) that spell their own number; `copies` maps a row to the row it repeats."""
    numbers = np.arange(start, start + len(labels), dtype="<u4")
    for row, original in (copies or {}).items():
        numbers[row] = numbers[original]
    images = torch.from_numpy(numbers.view(np.uint8).reshape(-1, 1, 2, 2).copy())
    return ImageTable(images, torch.tensor(labels))


def read(table: ImageTable) -> list[int]:
    return table.images.numpy().reshape(len(table), 4).copy().view("<u4")[:, 0].tolist()


def per_class(splits: Splits, classes: int) -> dict[str, list[int]]:
    return {name: torch.bincount(getattr(splits, name).labels, minlength=classes).tolist() for name in NAMES}


def one_table(labels: list[int], copies: dict[int, int] | None = None) -> Source:
    return make_source("mine", numbered(labels, copies=copies))


def test_one_table_is_divided_among_all_four() -> None:
    labels = [0] * 100 + [1] * 40
    splits = make_splits(one_table(labels), **SHARES, rng=Rng(0))
    assert per_class(splits, 2) == {"train": [45, 18], "val": [10, 4], "test": [20, 8], "aux": [25, 10]}
    assert sorted(number for name in NAMES for number in read(getattr(splits, name))) == list(range(140))
    assert splits.sizes == {"train": 63, "val": 14, "test": 28, "aux": 35}
    assert splits.duplicates == 0
    for name in NAMES:
        split = getattr(splits, name)
        assert [labels[number] for number in read(split)] == split.labels.tolist()


def test_a_test_table_is_the_test_split_untouched() -> None:
    source = make_source("mine", numbered([0, 1] * 20), numbered([1, 0, 1], start=1000))
    splits = make_splits(source, **SHARES, rng=Rng(0))
    assert read(splits.test) == [1000, 1001, 1002]
    assert per_class(splits, 2) == {"train": [13, 13], "val": [2, 2], "test": [1, 2], "aux": [5, 5]}


def test_pictures_of_the_test_table_are_left_out_and_counted() -> None:
    train = numbered([0, 1] * 20)
    test = ImageTable(train.images[[4, 5, 5]], torch.tensor([0, 1, 1]))
    # a third copy inside the train table goes too
    train.images[6] = train.images[4]
    splits = make_splits(make_source("mine", train, test), **SHARES, rng=Rng(0))
    learned = [number for name in ("train", "val", "aux") for number in read(getattr(splits, name))]
    assert splits.duplicates == 3
    assert sorted(learned) == [number for number in range(40) if number not in (4, 5, 6)]
    assert read(splits.test) == [4, 5, 5]


def test_copies_stay_together_and_the_shares_still_hold() -> None:
    copies = {row: row - row % 4 for row in range(0, 200, 2)}  # even rows in pairs
    splits = make_splits(one_table([0] * 100 + [1] * 100, copies), **SHARES, rng=Rng(3))
    homes: dict[int, set[str]] = {}
    for name in NAMES:
        for number in read(getattr(splits, name)):
            homes.setdefault(number, set()).add(name)
    assert all(len(home) == 1 for home in homes.values())
    assert per_class(splits, 2) == {"train": [45, 45], "val": [10, 10], "test": [20, 20], "aux": [25, 25]}


def test_large_groups_of_copies_do_not_spoil_the_shares() -> None:
    copies = {row: row - row % 10 for row in range(60)}  # six groups of ten, then forty single pictures
    source = one_table([0] * 100 + [1] * 100, copies)
    for seed in range(10):
        counts = per_class(make_splits(source, **SHARES, rng=Rng(seed)), 2)
        assert {name: row[0] for name, row in counts.items()} == {"train": 45, "val": 10, "test": 20, "aux": 25}


def test_copies_with_other_labels_stay_together_too() -> None:
    copies = {row + 20: row for row in range(10)}
    splits = make_splits(one_table([0] * 20 + [1] * 20, copies), **SHARES, rng=Rng(0))
    sets = [set(read(getattr(splits, name))) for name in NAMES]
    assert sum(map(len, sets)) == 30


def test_the_key_decides_and_nothing_else() -> None:
    source = one_table([0, 1, 2] * 30)
    torch.manual_seed(1)
    first = make_splits(source, **SHARES, rng=Rng(5))
    torch.manual_seed(2)
    again = make_splits(source, **SHARES, rng=Rng(5))
    other = make_splits(source, **SHARES, rng=Rng(6))
    assert [read(getattr(first, name)) for name in NAMES] == [read(getattr(again, name)) for name in NAMES]
    assert first.digest == again.digest
    assert read(first.train) != read(other.train)
    assert first.digest != other.digest


def test_places_and_not_contents_decide() -> None:
    labels = [0, 1, 2] * 30
    first, second = (
        make_splits(make_source("mine", numbered(labels, start)), **SHARES, rng=Rng(5)) for start in (0, 7000)
    )
    for name in NAMES:
        assert read(getattr(first, name)) == [number - 7000 for number in read(getattr(second, name))]


def test_ties_between_parts_do_not_all_fall_the_same_way() -> None:
    # ten pictures a class: 4.5 to train and 2.5 to aux, so each class has one left over that either may have
    splits = make_splits(one_table([label for label in range(40) for _ in range(10)]), **SHARES, rng=Rng(0))
    counts = per_class(splits, 40)
    assert set(counts["val"]) == {1}
    assert set(counts["test"]) == {2}
    assert set(counts["train"]) == {4, 5}
    assert 165 <= len(splits.train) <= 195


def test_limit_takes_a_stratified_part_of_the_pool() -> None:
    source = one_table([0] * 600 + [1] * 300 + [2] * 100)
    splits = make_splits(source, **SHARES, limit=200, rng=Rng(0))
    total = np.sum(list(per_class(splits, 3).values()), axis=0).tolist()
    assert total == [120, 60, 20]
    whole = make_splits(source, **SHARES, limit=1000, rng=Rng(0))
    assert sum(whole.sizes.values()) == 1000
    assert whole.digest == make_splits(source, **SHARES, rng=Rng(0)).digest


@pytest.mark.parametrize(("test_size", "expected"), [(4000, 1000), (12_000, 1200), (600, 600)])
def test_limit_cuts_a_test_table_by_the_same_ratio_but_not_below_a_thousand(test_size: int, expected: int) -> None:
    source = make_source("mine", numbered([0, 1] * 1000), numbered([0, 1] * (test_size // 2), start=5000))
    splits = make_splits(source, **SHARES, limit=200, rng=Rng(0))
    assert splits.sizes["test"] == expected
    assert splits.sizes["train"] + splits.sizes["val"] + splits.sizes["aux"] == 200
    assert torch.bincount(splits.test.labels).tolist() == [expected // 2] * 2


def test_limit_loses_no_class_of_the_test_table() -> None:
    rare = make_source("mine", numbered([0, 1] * 1000), numbered([0] * 3999 + [1], start=5000))
    for seed in range(8):
        assert int((make_splits(rare, **SHARES, limit=200, rng=Rng(seed)).test.labels == 1).sum()) == 1


@pytest.mark.parametrize(
    ("shares", "fact"),
    [
        ({"val_share": 0.5, "aux_share": 0.3, "test_share": 0.2}, "val_share 0.5, aux_share 0.3, test_share 0.2"),
        ({"val_share": 0.0, "aux_share": 0.3, "test_share": 0.2}, "val_share between 0 and 1, got 0.0"),
        ({"val_share": 0.1, "aux_share": 1.2, "test_share": 0.2}, "aux_share between 0 and 1"),
        ({"val_share": 0.1, "aux_share": 0.3, "test_share": float("nan")}, "test_share between 0 and 1"),
        ({**SHARES, "limit": 0}, "limit >= 1"),
    ],
)
def test_shares_that_cannot_be_meant(shares: dict[str, float], fact: str) -> None:
    with pytest.raises(SpecError, match=fact):
        make_splits(one_table([0, 1] * 20), **shares, rng=Rng(0))


def test_the_test_share_does_not_count_beside_a_test_table() -> None:
    source = make_source("mine", numbered([0, 1] * 20), numbered([0, 1], start=1000))
    splits = make_splits(source, val_share=0.3, aux_share=0.3, test_share=0.9, rng=Rng(0))
    assert splits.sizes == {"train": 16, "val": 12, "test": 2, "aux": 12}


def test_a_class_with_too_few_different_pictures_is_named() -> None:
    copies = {row: 20 + row % 3 for row in range(20, 40)}
    with pytest.raises(InputError, match=r"class '1' in each of train, val, aux, test, got 20"):
        make_splits(one_table([0] * 20 + [1] * 20, copies), **SHARES, rng=Rng(0))
    with pytest.raises(InputError, match=r"class '0'.*got 3.*raise limit"):
        make_splits(one_table([0, 1] * 20), **SHARES, limit=6, rng=Rng(0))
    table = numbered([0, 1] * 20)
    with pytest.raises(InputError, match=r"got 0.* 40 that the test table holds too"):
        make_splits(make_source("mine", table, table), **SHARES, rng=Rng(0))


def test_the_digest_is_over_names_shapes_labels_and_pictures_in_order() -> None:
    splits = make_splits(one_table([0, 1] * 20), **SHARES, rng=Rng(0))
    seal = hashlib.sha256(json.dumps(["0", "1"]).encode())
    for name in NAMES:
        split = getattr(splits, name)
        seal.update(json.dumps([len(split), 1, 2, 2]).encode())
        seal.update(b"".join(int(label).to_bytes(8, "little") for label in split.labels))
        seal.update(bytes(split.images.flatten().tolist()))
    assert splits.digest == seal.hexdigest()


def test_the_digest_knows_class_names_and_labels() -> None:
    table = numbered([0, 1] * 20)
    named = [make_splits(make_source("m", table, None, names), **SHARES, rng=Rng(0)) for names in (None, ["a", "b"])]
    assert named[0].digest != named[1].digest
