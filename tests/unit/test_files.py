"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from splitveil.errors import OutputError
from splitveil.export.folders import write_folder
from splitveil.files import write_bytes, write_text, write_with


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "häuser\n")
    write_bytes(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == "häuser\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.txt", "b.bin"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "deep" / "a.txt", "text")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "text"


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a long old text")
    write_text(file, "new")
    assert file.read_text() == "new"


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_who_may_read_is_what_the_umask_says(tmp_path: Path, umask: int, file: int, folder: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "text")
        write_folder(tmp_path / "out", lambda empty: write_text(empty / "b.txt", "text"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "out" / "b.txt").stat().st_mode) == file
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == folder


def test_a_file_that_another_library_puts_in_place_has_the_same_rights(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        mine = temporary.with_suffix(".own")
        mine.touch(0o600)
        mine.replace(temporary)

    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.json", "{}")
        write_with(tmp_path / "a.bin", write)
        write_with(tmp_path / "a.safetensors", lambda file: save_file({"x": torch.zeros(1)}, file))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o644}


def test_the_old_file_is_there_while_the_new_one_is_written(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    seen: list[str] = []

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        seen.append(file.read_text())
        assert temporary.parent == file.parent, "a rename is whole on one file system only"

    write_with(file, write)
    assert seen == ["old"]
    assert file.read_text() == "half"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises((type(error), OutputError)):
        write_with(file, write)
    assert file.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


class SafetensorError(Exception):
    """As safetensors reports the operating system's errors."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "Read-only file system"),
    ],
)
def test_a_full_disk_is_an_output_error(tmp_path: Path, error: Exception, reason: str) -> None:
    def write(temporary: Path) -> None:
        raise error

    with pytest.raises(OutputError, match=reason) as caught:
        write_with(tmp_path / "a.txt", write)
    assert str(tmp_path / "a.txt") in str(caught.value)
    assert caught.value.__cause__ is error


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        raise ValueError("expected a number")

    with pytest.raises(ValueError, match="expected a number"):
        write_with(tmp_path / "a.txt", write)


def test_a_device_without_space(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def write(temporary: Path) -> None:
        Path("/dev/full").write_bytes(b"text")

    with pytest.raises(OutputError, match="the disk is full"):
        write_with(tmp_path / "a.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_when_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="the disk is full"):
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "out" / "a.txt", "text")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "a.txt", "text")
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_input_inside_write_is_not_a_fault_of_the_output(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes((tmp_path / "missing.bin").read_bytes())

    with pytest.raises(FileNotFoundError):
        write_with(tmp_path / "a.txt", write)
