"""Folders with one sub-folder of pictures per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitveil.data.folder import load_folder
from splitveil.data.reading import Reading
from splitveil.errors import InputError, MissingDataError, SpecError


def test_labels_follow_the_sorted_names(tmp_path: Path, write_folder) -> None:
    source = load_folder(write_folder(tmp_path / "pets", ["dog", "cat"]))
    assert source.class_names == ("cat", "dog")
    assert source.name == "pets"
    assert source.train.labels.tolist() == [0] * 8 + [1] * 8
    expected = np.asarray(Image.open(tmp_path / "pets/dog/3.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(source.train.images[11].numpy(), expected)
    assert source.test is None


def test_train_and_test_folders_are_two_tables_and_val_joins_train(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path / "train", ["a", "b"], seed=1)
    write_folder(tmp_path / "test", ["a", "b"], count=3, seed=2)
    source = load_folder(tmp_path)
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (16, 6)
    assert source.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected = np.asarray(Image.open(tmp_path / "test/b/0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(source.test.images[3].numpy(), expected)
    write_folder(tmp_path / "val", ["a", "b"], count=2, seed=3)
    assert len(load_folder(tmp_path).train) == 20


def test_files_that_a_desktop_leaves_behind_are_passed_over(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path, ["a", "b"])
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._1.png"):
        (tmp_path / "a" / name).write_bytes(b"junk")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("pets")
    assert len(load_folder(tmp_path).train) == 16


def test_progress_reaches_the_total(tmp_path: Path, write_folder) -> None:
    seen: list[tuple[int, int]] = []
    load_folder(write_folder(tmp_path, ["a", "b"]), reading=Reading(lambda done, total: seen.append((done, total))))
    assert seen == [(16, 16)]


@pytest.mark.parametrize("content", [b"notes", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, write_folder, content: bytes) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "b" / "notes.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"b/notes\.txt'.*do not decode"):
        load_folder(tmp_path)


def test_a_file_that_went_away_is_named(tmp_path: Path, write_folder, monkeypatch) -> None:
    write_folder(tmp_path, ["a", "b"])

    def refuse(file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("splitveil.data.folder._open", refuse)
    with pytest.raises(InputError, match=r"cannot read '.*a/0\.png': Permission denied"):
        load_folder(tmp_path)


def test_two_sizes_are_named(tmp_path: Path, write_folder, encode) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "b" / "big.png").write_bytes(encode(size=(40, 30)))
    with pytest.raises(InputError, match=r"6x5 in '.*a/0\.png' and 40x30 in '.*b/big\.png': resize"):
        load_folder(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".DS_Store").write_bytes(b"")
    with pytest.raises(InputError, match=r"class folder '.*c', got none"):
        load_folder(tmp_path)


def test_a_folder_inside_a_class_folder_is_named(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "b" / "more").mkdir()
    with pytest.raises(InputError, match="'more', which is a folder"):
        load_folder(tmp_path)


def test_a_class_with_few_pictures_and_a_single_class_are_refused(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path / "few", ["a", "b"], count=7)
    with pytest.raises(InputError, match="got 7 of class 'a'"):
        load_folder(tmp_path / "few")
    write_folder(tmp_path / "one", ["a"])
    with pytest.raises(InputError, match="at least two classes"):
        load_folder(tmp_path / "one")


def test_parts_whose_classes_differ_are_refused(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path / "train", ["a", "b", "c"])
    write_folder(tmp_path / "test", ["a", "b"])
    with pytest.raises(InputError, match="'c' only in train"):
        load_folder(tmp_path)
    write_folder(tmp_path / "test" / "x", ["c"])
    (tmp_path / "test" / "x" / "c").rename(tmp_path / "test" / "c")
    (tmp_path / "test" / "x").rmdir()
    assert load_folder(tmp_path).classes == 3
    write_folder(tmp_path / "other", ["a"])
    with pytest.raises(InputError, match="got 'other' too"):
        load_folder(tmp_path)


def test_nothing_to_read(tmp_path: Path, encode) -> None:
    with pytest.raises(MissingDataError, match="nowhere"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(SpecError, match="expects a path"):
        load_folder(None)
    with pytest.raises(MissingDataError, match="one sub-folder of pictures per class"):
        load_folder(tmp_path)
    (tmp_path / "x.png").write_bytes(encode())
    with pytest.raises(InputError, match="got a file"):
        load_folder(tmp_path / "x.png")


def test_links_that_leave_the_folder_are_refused(tmp_path: Path, write_folder, encode) -> None:
    outside = write_folder(tmp_path / "outside", ["x"])
    root = write_folder(tmp_path / "root", ["a", "b"])
    picture = root / "a" / "link.png"
    picture.symlink_to(outside / "x" / "0.png")
    with pytest.raises(InputError, match=r"link '.*a/link\.png' that leaves it"):
        load_folder(root)
    picture.unlink()
    (root / "c").symlink_to(outside / "x")
    with pytest.raises(InputError, match=r"link '.*c' that leaves it"):
        load_folder(root)
    (root / "c").unlink()
    picture.symlink_to(root / "b" / "0.png")
    assert len(load_folder(root).train) == 17


def test_a_part_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path, write_folder) -> None:
    outside = write_folder(tmp_path / "outside", ["a", "b"])
    write_folder(tmp_path / "root" / "train", ["a", "b"])
    (tmp_path / "root" / "test").symlink_to(outside)
    with pytest.raises(InputError, match=r"link '.*test' that leaves it"):
        load_folder(tmp_path / "root")


@pytest.mark.parametrize("target", ["gone.png", "self.png"])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, write_folder, target: str) -> None:
    write_folder(tmp_path, ["a", "b"])
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / target)
    with pytest.raises(InputError, match=r"self\.png', got a link that leads nowhere"):
        load_folder(tmp_path)


def test_the_folder_itself_may_be_a_link(tmp_path: Path, write_folder) -> None:
    write_folder(tmp_path / "real", ["a", "b"])
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert len(load_folder(tmp_path / "alias").train) == 16
