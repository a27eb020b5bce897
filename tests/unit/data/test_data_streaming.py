"""Pictures that stay in a file: the same bits as in memory, made once, whole or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.data import gathering, reading, stacks
from splitveil.data.cache import cache_folder
from splitveil.data.folder import load_folder
from splitveil.data.holding import StreamedPictures, hold
from splitveil.data.loader import Pictures
from splitveil.data.parquet import load_parquet
from splitveil.data.reading import Reading, memory_bytes
from splitveil.data.rows import StoredRows, channel_statistics, chunks, in_memory, join_rows
from splitveil.data.sources import load_source
from splitveil.data.splits import make_splits
from splitveil.data.tables import ImageTable, Source, join_tables
from splitveil.errors import InputError, OutputError, SpecError
from splitveil.rng import Rng

STREAM = Reading(stream=True)
SHARES: dict[str, Any] = {"val_share": 0.2, "aux_share": 0.2, "test_share": 0.2, "rng": Rng(0)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def faces(tmp_path: Path, write_folder) -> Path:
    return write_folder(tmp_path / "faces", ["anna", "bert"], 20)


@pytest.fixture
def rows(tmp_path: Path) -> tuple[StoredRows, Tensor]:
    values = torch.randint(0, 256, (50, 3, 4, 5), generator=Rng(0).generator(), dtype=torch.uint8)
    (tmp_path / "rows").write_bytes(values.numpy().tobytes())
    return StoredRows(tmp_path / "rows", (3, 4, 5)), values


# ---------------------------------------------------------------------------------------------------- rows


@settings(deadline=None)
@given(st.lists(st.integers(0, 49), min_size=1), st.lists(st.integers(0, 49), min_size=1), st.integers(0, 60))
def test_rows_are_indexed_like_a_tensor(tmp_path_factory, taken: list[int], asked: list[int], start: int) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows"
    values = torch.randint(0, 256, (50, 1, 2, 3), generator=Rng(0).generator(), dtype=torch.uint8)
    file.write_bytes(values.numpy().tobytes())
    stored, chosen = StoredRows(file, (1, 2, 3)).take(torch.tensor(taken)), values[torch.tensor(taken)]
    indices = torch.tensor(asked) % len(taken)
    assert torch.equal(stored[indices], chosen[indices])
    assert torch.equal(stored[start : start + 7], chosen[start : start + 7])
    assert (stored.shape, stored.ndim, stored.nbytes) == (tuple(chosen.shape), chosen.ndim, chosen.nbytes)


def test_rows_go_to_another_process_by_the_name_of_their_file(rows: tuple[StoredRows, Tensor]) -> None:
    stored, values = rows
    chosen = torch.tensor([7, 3, 3])
    sent = pickle.dumps(stored.take(chosen))
    assert len(sent) < 1000  # not the rows themselves
    assert torch.equal(pickle.loads(sent)[:], values[chosen])
    stored.file.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(sent)


def test_chunks_joins_and_statistics_agree_with_the_tensor(
    rows: tuple[StoredRows, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, values = rows
    monkeypatch.setattr("splitveil.data.rows._CHUNK_BYTES", 7 * 60)
    assert [len(chunk) for chunk in chunks(stored)] == [7] * 7 + [1]
    assert torch.equal(torch.cat(list(chunks(stored))), values)
    first, last = stored.take(torch.arange(9)), stored.take(torch.arange(40, 50))
    assert torch.equal(join_rows([last, first])[:], torch.cat([values[40:], values[:9]]))
    mean, std = channel_statistics(stored)
    exact = values.double() / 255
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), exact.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), exact.std((0, 2, 3)))
    assert (mean, std) == channel_statistics(values)


def test_rows_of_two_files_are_not_joined(rows: tuple[StoredRows, Tensor]) -> None:
    with pytest.raises(InputError, match="of one source"):
        join_rows(list(rows))


def test_a_file_that_was_cut_off_is_refused(rows: tuple[StoredRows, Tensor]) -> None:
    stored, _ = rows
    os.truncate(stored.file, 49 * 60)
    assert len(stored[:49]) == 49
    with pytest.raises(InputError, match="cut off: delete its folder"):
        stored[49:]
    os.truncate(stored.file, 61)
    with pytest.raises(InputError, match="cut off"):
        StoredRows(stored.file, (3, 4, 5))


def test_what_must_be_in_memory_is_refused_where_it_does_not_fit(
    rows: tuple[StoredRows, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, values = rows
    assert torch.equal(in_memory(stored), values)
    assert in_memory(stored, 10).shape == (10, 3, 4, 5)
    monkeypatch.setattr("splitveil.data.rows.memory_bytes", lambda: 100)
    with pytest.raises(InputError, match="fit into memory here, got 50"):
        in_memory(stored)


# ------------------------------------------------------------------------------------------------- sources


def test_a_streamed_folder_has_the_splits_and_the_digest_of_one_in_memory(faces: Path) -> None:
    streamed, held = load_folder(faces, reading=STREAM), load_folder(faces, reading=Reading(stream=False))
    assert isinstance(streamed.train.images, StoredRows)
    assert isinstance(held.train.images, Tensor)
    first, second = make_splits(streamed, **SHARES), make_splits(held, **SHARES)
    assert first.digest == second.digest
    assert torch.equal(in_memory(first.train.images), in_memory(second.train.images))
    assert torch.equal(
        in_memory(join_tables([first.val, first.aux]).images), in_memory(join_tables([second.val, second.aux]).images)
    )


def test_copies_are_found_in_a_file_too(tmp_path: Path, write_parquet, encode) -> None:
    contents = [encode(index // 2) for index in range(40)]
    write_parquet(tmp_path / "train.parquet", contents, [index // 2 % 2 for index in range(40)])
    write_parquet(tmp_path / "test.parquet", contents[:4], [0, 0, 1, 1])
    splits = make_splits(load_parquet(tmp_path, reading=STREAM), **SHARES)
    assert splits.duplicates == 4
    assert splits.digest == make_splits(load_parquet(tmp_path), **SHARES).digest


def test_a_first_picture_in_colour_turns_the_grey_ones(tmp_path: Path, write_folder, encode, monkeypatch) -> None:
    folder = write_folder(tmp_path / "mixed", ["a", "b"], 8)
    monkeypatch.setattr(stacks, "_COPIED", 3)
    for index in range(7):
        (folder / "a" / f"{index}.png").write_bytes(encode(index, "L"))
    streamed, held = load_folder(folder, reading=STREAM), load_folder(folder)
    assert streamed.input_shape == (3, 5, 6)
    assert torch.equal(in_memory(streamed.train.images), held.train.images)


def test_a_second_load_decodes_nothing(faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_folder(faces, reading=STREAM)
    monkeypatch.setattr(gathering, "open_picture", None)  # whoever calls it fails
    again = load_folder(faces, reading=STREAM)
    assert torch.equal(in_memory(first.train.images), in_memory(again.train.images))
    assert len([item for item in cache.iterdir() if item.is_dir()]) == 1


def test_a_changed_file_is_decoded_anew(faces: Path, encode) -> None:
    before = load_folder(faces, reading=STREAM)
    (faces / "anna" / "0.png").write_bytes(encode(99))
    after = load_folder(faces, reading=STREAM)
    assert not torch.equal(before.train.images[:1], after.train.images[:1])
    assert torch.equal(before.train.images[1:], after.train.images[1:])


def test_streaming_begins_where_memory_is_short(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 40 * 3 * 5 * 6
    for bytes_, kind in ((4 * decoded, Tensor), (4 * decoded - 4, StoredRows)):
        monkeypatch.setattr(reading, "memory_bytes", lambda found=bytes_: found)
        assert isinstance(load_folder(faces).train.images, kind)


def test_a_control_group_limits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory_bytes()
    (tmp_path / "memory.max").write_text("4096\n")
    monkeypatch.setattr(reading, "_LIMITS", (tmp_path / "memory.max", tmp_path / "missing"))
    assert memory_bytes() == 4096
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_bytes() >= whole


def test_no_room_is_said_before_anything_is_written(faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(OutputError, match="SPLITVEIL_CACHE"):
        load_folder(faces, reading=STREAM)
    assert [item for item in cache.iterdir() if item.is_dir()] == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_fails_on_the_way_leaves_nothing(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(stack: stacks.FileStack, picture: object) -> None:
        raise failure

    monkeypatch.setattr(stacks.FileStack, "_put", fail)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt, match=r"disk is full|^$"):
        load_folder(faces, reading=STREAM)
    assert [item for item in cache.iterdir() if item.is_dir()] == []


def test_what_a_kill_left_is_swept(faces: Path, cache: Path) -> None:
    load_folder(faces, reading=STREAM)
    (entry,) = [item for item in cache.iterdir() if item.is_dir()]
    entry.rename(entry.with_name(f"{entry.name}.unfinished"))
    assert len(load_folder(faces, reading=STREAM).train) == 40
    assert [item for item in cache.iterdir() if item.is_dir()] == [entry]


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLITVEIL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/splitveil/pictures")


@pytest.mark.parametrize("wish", [Reading(stream=True), Reading(skip_corrupt=True), Reading(size=8)])
def test_sources_that_read_as_they_are_say_so(wish: Reading) -> None:
    with pytest.raises(SpecError, match="'digits' reads its pictures as they are"):
        load_source("digits", reading=wish)


# -------------------------------------------------------------------------------------------- corrupt files


def _corrupt(faces: Path) -> list[Path]:
    wrong = [faces / "anna" / "10.png", faces / "anna" / "3.png", faces / "bert" / "19.png"]
    for file in wrong:
        file.write_bytes(file.read_bytes()[:40])
    return wrong


@pytest.mark.parametrize("stream", [True, False])
def test_corrupt_files_are_counted_and_listed(faces: Path, cache: Path, stream: bool) -> None:
    wrong = _corrupt(faces)
    with pytest.raises(InputError, match=r"3 of 40 pictures do not decode: .*; pass skip_corrupt") as caught:
        load_folder(faces, reading=Reading(stream=stream))
    assert all(str(file) in str(caught.value) for file in wrong)
    assert not cache.exists() or [item for item in cache.iterdir() if item.is_dir()] == []


@pytest.mark.parametrize("stream", [True, False])
def test_corrupt_files_are_skipped_when_asked(faces: Path, stream: bool) -> None:
    whole = load_folder(faces)
    wrong = _corrupt(faces)
    wish = Reading(stream=stream, skip_corrupt=True)
    source = load_folder(faces, reading=wish)
    assert sorted(source.skipped) == sorted(f"'{file}'" for file in wrong)
    names = sorted(f"{number}.png" for number in range(20))
    lost = [names.index("10.png"), names.index("3.png"), 20 + names.index("19.png")]
    kept = torch.tensor([place for place in range(40) if place not in lost])
    assert source.train.labels.tolist() == [0] * 18 + [1] * 19
    assert torch.equal(in_memory(source.train.images), in_memory(whole.train.images)[kept])
    assert load_folder(faces, reading=wish).skipped == source.skipped


def test_skipped_pictures_of_two_tables_stay_in_their_tables(tmp_path: Path, write_parquet, encode) -> None:
    contents = [encode(index) for index in range(30)]
    contents[4] = b"broken"
    write_parquet(tmp_path / "train.parquet", contents, [index % 2 for index in range(30)])
    write_parquet(tmp_path / "test.parquet", [encode(50), None, encode(51), b"broken"], [0, 0, 1, 1])
    source = load_parquet(tmp_path, reading=Reading(skip_corrupt=True))
    assert source.test is not None
    assert (len(source.train), len(source.test), len(source.skipped)) == (29, 2, 3)
    assert source.test.labels.tolist() == [0, 1]


def test_a_class_that_is_all_corrupt_is_an_error(faces: Path) -> None:
    for file in (faces / "anna").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="no picture with label 0 \\('anna'\\)"):
        load_folder(faces, reading=Reading(skip_corrupt=True))


# -------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("stream", [True, False])
def test_pictures_of_many_sizes_are_brought_to_one(tmp_path: Path, encode, stream: bool) -> None:
    for index in range(16):
        folder = tmp_path / "mixed" / ("a" if index < 8 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(encode(index, size=(6 + index, 20 - index)))
    with pytest.raises(InputError, match="or pass size"):
        load_folder(tmp_path / "mixed")
    assert load_folder(tmp_path / "mixed", reading=Reading(stream=stream, size=9)).input_shape == (3, 9, 9)
    with pytest.raises(SpecError, match="at least one pixel"):
        Reading(size=0)


def test_resizing_keeps_the_middle(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((10, 30), dtype=np.uint8)
    pixels[:, 10:20] = 200
    for index in range(16):
        folder = tmp_path / ("a" if index < 8 else "b")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    images = load_folder(tmp_path, reading=Reading(size=10)).train.images
    assert bool((in_memory(images) == 200).all())


# ------------------------------------------------------------------------------------------------- loading


def _tables(faces: Path) -> tuple[Source, Source]:
    return load_folder(faces), load_folder(faces, reading=STREAM)


@pytest.mark.parametrize(
    "read",
    [
        lambda pictures: [pictures.get(torch.tensor([5, 3, 3, 39]))],
        lambda pictures: list(pictures.batches(7)),
        lambda pictures: list(pictures.follow(torch.split(pictures.order(Rng(3)), 2))),
        lambda pictures: list(pictures.take(torch.tensor([1, 30, 2])).batches(2)),
    ],
)
def test_streamed_pictures_are_the_pictures(
    faces: Path, read: Callable[[Pictures], list[tuple[Tensor, Tensor]]]
) -> None:
    held, streamed = (hold(source.train) for source in _tables(faces))
    assert isinstance(streamed, StreamedPictures)
    expected, found = read(held), read(streamed)
    assert len(expected) == len(found)
    for (x, y), (other_x, other_y) in zip(expected, found, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_whoever_stops_early_leaves_no_thread_behind(faces: Path) -> None:
    import threading

    streamed = hold(load_folder(faces, reading=STREAM).train)
    following = streamed.follow(torch.split(torch.arange(40), 1))
    next(following)
    following.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_a_table_in_memory_can_stay_with_the_host(faces: Path) -> None:
    table = load_folder(faces).train
    x, y = StreamedPictures(table).get(torch.tensor([4]))
    assert torch.equal(x, Pictures(table).get(torch.tensor([4]))[0])
    assert int(y) == int(table.labels[4])


def test_an_epoch_can_draw_every_class_as_often() -> None:
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    pictures = Pictures(ImageTable(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), labels), sampling="balanced")
    order = pictures.order(Rng(0))
    assert len(order) == 100
    assert sorted(torch.bincount(labels[order]).tolist()) == [33, 33, 34]
    drawn = torch.bincount(order, minlength=100)
    assert drawn[:70].max() == 1  # nobody twice before all others once
    assert set(drawn[70:90].tolist()) <= {1, 2}
    assert set(drawn[90:].tolist()) <= {3, 4}
    assert torch.equal(order, pictures.order(Rng(0)))
    assert not torch.equal(order, pictures.order(Rng(1)))
