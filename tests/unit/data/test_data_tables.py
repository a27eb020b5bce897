"""What holds for every source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from splitveil.data.digits import load_digits
from splitveil.data.tables import ImageTable, check_labels, existing_path, make_source
from splitveil.errors import InputError, MissingDataError, SpecError


def table(labels: list[int], side: int = 4) -> ImageTable:
    return ImageTable(torch.zeros(len(labels), 1, side, side, dtype=torch.uint8), torch.tensor(labels))


def test_a_source_knows_its_shape_and_classes() -> None:
    source = make_source("mine", table([0, 1, 2] * 8), table([2, 1, 0]), ["a", "b", "c"])
    assert source.input_shape == (1, 4, 4)
    assert source.classes == 3
    assert source.class_names == ("a", "b", "c")


def test_take_copies_the_rows_asked_for() -> None:
    whole = ImageTable(torch.arange(16, dtype=torch.uint8).reshape(4, 1, 2, 2), torch.tensor([0, 1, 2, 3]))
    part = whole.take(torch.tensor([3, 1]))
    assert part.labels.tolist() == [3, 1]
    assert part.images[0].flatten().tolist() == [12, 13, 14, 15]
    part.images.zero_()
    assert int(whole.images.max()) == 15


@pytest.mark.parametrize(
    ("images", "labels", "fact"),
    [
        (torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), "float32"),
        (torch.zeros(4, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), r"\(4, 2, 2\)"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\(3,\)"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4), "float32"),
    ],
)
def test_a_table_of_another_form_is_refused(images: torch.Tensor, labels: torch.Tensor, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        ImageTable(images, labels)


@pytest.mark.parametrize(
    ("labels", "names", "facts"),
    [
        ([0, 1, 3] * 8, None, ["no picture with label 2", "0 to 3"]),
        ([0, 2] * 8, ["cat", "dog", "emu"], ["label 1 ('dog')"]),
        ([0, 10**12] * 8, None, ["label 1, 2, 3, 4, 5 and 999999999994 more"]),
        ([0, 1, -1] * 8, None, ["got -1", "8 pictures"]),
        ([0, 1, 2] * 8, ["cat", "dog"], ["got 2", "0 to 1"]),
        ([0] * 8, None, ["two classes"]),
        ([0] * 8 + [1] * 7, ["cat", "dog"], ["at least 8", "got 7 of class 'dog'"]),
        ([0, 1] * 8, ["cat", "cat"], ["'cat' more than once"]),
        ([], None, ["empty table"]),
    ],
)
def test_labels_at_fault_are_named(labels: list[int], names: list[str] | None, facts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_labels(torch.tensor(labels, dtype=torch.int64), names)
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("test", "fact"),
    [
        (table([0, 1, 5]), "got 5"),
        (table([0, 0]), "none of class 'dog'"),
        (table([0, 1], side=5), r"\(1, 5, 5\)"),
        (table([-1, -1]), "got -1"),
    ],
)
def test_a_test_table_that_does_not_fit_is_refused(test: ImageTable, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        make_source("mine", table([0, 1] * 8), test, ["cat", "dog"])


def test_a_path_must_be_given_and_there(tmp_path: Path) -> None:
    assert existing_path(tmp_path, "folder") == tmp_path
    with pytest.raises(SpecError, match="expects a path"):
        existing_path(None, "folder")
    with pytest.raises(MissingDataError, match="nowhere"):
        existing_path(tmp_path / "nowhere", "folder")


def test_digits_are_those_of_scikit_learn_on_the_scale_of_bytes() -> None:
    from sklearn.datasets import load_digits as load_raw

    source, raw = load_digits(), load_raw()
    assert source.train.images.shape == (1797, 1, 8, 8)
    assert source.test is None
    assert source.class_names == tuple("0123456789")
    assert source.train.labels.tolist() == raw.target.tolist()
    back = source.train.images[:, 0].numpy().astype(np.float64) * 16 / 255
    assert np.abs(back - raw.images).max() < 0.04
    assert int(source.train.images.max()) == 255


def test_digits_take_no_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="built in and expects no path"):
        load_digits(tmp_path)
