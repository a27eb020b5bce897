"""TinyImageNet's layout, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitveil.data.sources import guess_source
from splitveil.data.tiny_imagenet import load_tiny_imagenet
from splitveil.errors import InputError, MissingDataError


@pytest.fixture
def root(tmp_path: Path, encode) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    for place, name in enumerate(("n02", "n01")):
        images = folder / "train" / name / "images"
        images.mkdir(parents=True)
        for number in range(8):
            (images / f"{name}_{number}.JPEG").write_bytes(encode(10 * place + number))
        (images.parent / f"{name}_boxes.txt").write_text("x")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(4):
        (folder / "val" / "images" / f"val_{number}.JPEG").write_bytes(encode(50 + number))
        lines.append(f"val_{number}.JPEG\tn0{1 + number % 2}\t0\t0\t9\t9")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\ttench\n")
    return folder


def test_both_tables_and_the_words(root: Path) -> None:
    assert guess_source(str(root)) == ("tiny_imagenet", root)
    source = load_tiny_imagenet(root)
    assert source.class_names == ("tench", "goldfish")
    assert source.train.labels.tolist() == [0] * 8 + [1] * 8
    assert source.test is not None
    assert source.test.labels.tolist() == [1, 0, 1, 0]


def test_annotations_of_another_class_or_place_are_refused(root: Path) -> None:
    for line in ("val_0.JPEG\tn99\t0", "../secret.png\tn01\t0"):
        (root / "val" / "val_annotations.txt").write_text(line + "\n")
        with pytest.raises(InputError, match="in line 1 of val_annotations"):
            load_tiny_imagenet(root)


@pytest.mark.parametrize("name", ["../../private", "..", "a/b", "/etc"])
def test_classes_are_folders_of_their_own(root: Path, name: str) -> None:
    (root / "wnids.txt").write_text(f"n01\n{name}\n")
    with pytest.raises(InputError, match=r"expected names of folders in wnids\.txt"):
        load_tiny_imagenet(root)


@pytest.mark.parametrize("inside", ["train/n01", "train/n01/images", "train/n01/images/n01_0.JPEG", "val/images"])
def test_links_out_of_the_folder_are_refused(root: Path, inside: str) -> None:
    (root / inside).rename(root.parent / "outside")
    (root / inside).symlink_to(root.parent / "outside")
    with pytest.raises(InputError, match="that leaves it"):
        load_tiny_imagenet(root)


def test_a_missing_part_is_said(root: Path) -> None:
    (root / "wnids.txt").write_text("n02\nn01\nn03\n")
    with pytest.raises(MissingDataError, match="expected the pictures of a class"):
        load_tiny_imagenet(root)
    (root / "wnids.txt").unlink()
    with pytest.raises(MissingDataError, match=r"unpack tiny-imagenet-200\.zip"):
        load_tiny_imagenet(root)
