"""From what a user writes to a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitveil.data import load_data
from splitveil.data.sources import guess_source, load_source
from splitveil.errors import ContractError, InputError, MissingDataError, SpecError, UnknownNameError, UsageError
from splitveil.registry import SOURCES, Registry


def test_a_registered_name_comes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "a").mkdir()
    assert guess_source("digits") == ("digits", None)
    assert guess_source("./digits") == ("folder", Path("digits"))


def test_every_registered_source_loads() -> None:
    for entry in SOURCES:
        assert callable(SOURCES.load(entry.name))


def test_parquet_and_folders_are_told_apart(tmp_path: Path, write_parquet, write_folder, encode) -> None:
    contents, labels = [encode(seed) for seed in range(16)], [0, 1] * 8
    file = write_parquet(tmp_path / "flat" / "train.parquet", contents, labels)
    write_parquet(tmp_path / "deep" / "data" / "train.parquet", contents, labels)
    write_folder(tmp_path / "pets", ["a", "b"])
    assert guess_source(str(file)) == ("parquet", file)
    assert guess_source(str(tmp_path / "flat")) == ("parquet", tmp_path / "flat")
    assert guess_source(str(tmp_path / "deep")) == ("parquet", tmp_path / "deep")
    assert guess_source(str(tmp_path / "pets")) == ("folder", tmp_path / "pets")
    for name in ("flat", "deep", "pets"):
        assert len(load_data(tmp_path / name).train) == 16


def test_a_home_folder_is_written_with_a_tilde(tmp_path: Path, monkeypatch, write_folder) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "pets", ["a", "b"])
    assert guess_source("~/pets") == ("folder", tmp_path / "pets")


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        ("digit", "did you mean 'digits'"),
        ("qqqq", "built in: cifar, digits, facescrub, folder"),
        ("no/where", "no/where"),
    ],
)
def test_what_is_not_there_is_missing_data(data: str, fact: str) -> None:
    with pytest.raises(MissingDataError) as caught:
        guess_source(data)
    assert fact in str(caught.value)
    assert caught.value.exit_code == 4


def test_what_is_neither_is_refused(tmp_path: Path, encode) -> None:
    with pytest.raises(MissingDataError, match="got an empty one"):
        guess_source(str(tmp_path))
    (tmp_path / "x.png").write_bytes(encode())
    with pytest.raises(InputError, match="got neither"):
        guess_source(str(tmp_path))
    with pytest.raises(InputError, match=r"got the file '.*x\.png'"):
        guess_source(str(tmp_path / "x.png"))
    with pytest.raises(UsageError, match="empty text"):
        guess_source(" ")


def test_loading_by_name(tmp_path: Path) -> None:
    assert load_source("digits").classes == 10
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_source("digts")
    with pytest.raises(SpecError, match="expects a path"):
        load_source("parquet")
    with pytest.raises(SpecError, match="expects no path"):
        load_source("digits", tmp_path)


def _returns_text(path: Path | None, progress: object = None) -> str:
    return "pictures"


def _fails(path: Path | None, progress: object = None) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_loader_from_elsewhere_is_held_to_the_contract(monkeypatch) -> None:
    registry = Registry("data source", "splitveil.sources.none")
    registry.add("text", f"{__name__}:_returns_text", "not a source")
    registry.add("locked", f"{__name__}:_fails", "not readable")
    monkeypatch.setattr("splitveil.data.sources.SOURCES", registry)
    with pytest.raises(ContractError, match="expected a Source from the loader of 'text', got str"):
        load_source("text")
    with pytest.raises(InputError, match=r"cannot read the pictures of 'locked'.*Permission denied"):
        load_source("locked", Path("x"))
