"""Parquet image tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from splitveil.data.parquet import load_parquet, parquet_files
from splitveil.data.reading import Reading
from splitveil.errors import InputError, MissingDataError, SpecError

LABELS = [0, 1] * 8


@pytest.fixture
def contents(encode) -> list[bytes]:
    return [encode(seed) for seed in range(16)]


def test_rows_come_back_in_order(tmp_path: Path, write_parquet, contents) -> None:
    write_parquet(tmp_path / "train.parquet", contents, LABELS)
    source = load_parquet(tmp_path)
    assert source.input_shape == (3, 5, 6)
    assert source.class_names == ("0", "1")
    assert source.test is None
    assert source.train.labels.tolist() == LABELS
    (tmp_path / "x.png").write_bytes(contents[11])
    np.testing.assert_array_equal(
        source.train.images[11].numpy(), np.asarray(Image.open(tmp_path / "x.png")).transpose(2, 0, 1)
    )


def test_links_out_of_the_folder_are_refused(tmp_path: Path, write_parquet, contents) -> None:
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "private.parquet", contents, LABELS)
    (tmp_path / "data" / "train.parquet").symlink_to(tmp_path / "private.parquet")
    with pytest.raises(InputError, match=r"train\.parquet' that leaves it"):
        load_parquet(tmp_path / "data")
    (tmp_path / "data" / "train.parquet").unlink()
    (tmp_path / "outside").mkdir()
    write_parquet(tmp_path / "outside" / "train.parquet", contents, LABELS)
    (tmp_path / "data" / "more").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="more' that leaves it"):
        load_parquet(tmp_path / "data")


def test_a_snapshot_of_the_hub_links_to_its_blobs(tmp_path: Path, write_parquet, contents) -> None:
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    write_parquet(tmp_path / "blobs" / "123", contents, LABELS)
    (snapshot / "train.parquet").symlink_to(tmp_path / "blobs" / "123")
    assert len(load_parquet(snapshot).train) == len(load_parquet(snapshot.parent).train) == 16


def test_names_say_which_table_a_file_belongs_to(tmp_path: Path, write_parquet, encode) -> None:
    def write(name: str, seed: int) -> bytes:
        first = encode(seed)
        write_parquet(tmp_path / name, [first, *(encode(seed + index) for index in range(1, 16))], LABELS, ["a", "b"])
        return first

    write("data/test-00000-of-00001.parquet", 100)
    write("validation-00000-of-00001.parquet", 200)
    write("train-00001-of-00002.parquet", 300)
    write("train-00000-of-00002.parquet", 400)
    write("test/0000.parquet", 500)
    write("extra.parquet", 600)
    write("tests/train.parquet", 800)
    write(".hidden.parquet", 700)
    source = load_parquet(tmp_path)

    def first_pixels(seed: int) -> list[int]:
        return np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)[0, 0].tolist()

    assert len(source.train) == 80
    assert source.test is not None
    assert len(source.test) == 32
    assert [source.train.images[row, :, 0, 0].tolist() for row in (0, 16, 32, 48, 64)] == [
        first_pixels(seed) for seed in (600, 800, 400, 300, 200)
    ]
    assert [source.test.images[row, :, 0, 0].tolist() for row in (0, 16)] == [first_pixels(100), first_pixels(500)]


def test_one_file_is_one_table_whatever_its_name(tmp_path: Path, write_parquet, contents) -> None:
    source = load_parquet(write_parquet(tmp_path / "test.parquet", contents, LABELS))
    assert source.test is None
    assert len(source.train) == 16


def test_class_names_come_from_the_metadata(tmp_path: Path, write_parquet, contents) -> None:
    write_parquet(tmp_path / "train.parquet", contents, LABELS, ["cat", "dog"])
    assert load_parquet(tmp_path).class_names == ("cat", "dog")


def test_metadata_of_another_form_is_passed_over(tmp_path: Path, write_parquet, contents) -> None:
    file = write_parquet(tmp_path / "train.parquet", contents, LABELS)
    for text in (b"{", b"[]", b'{"info": {"features": {"label": {"names": [1, 2]}}}}', b'{"info": null}', b"\xff"):
        table = pa.parquet.read_table(file).replace_schema_metadata({b"huggingface": text})
        pa.parquet.write_table(table, file)
        assert load_parquet(tmp_path).class_names == ("0", "1")


def test_files_whose_classes_have_other_names_are_refused(tmp_path: Path, write_parquet, contents) -> None:
    write_parquet(tmp_path / "train.parquet", contents, LABELS, ["cat", "dog"])
    write_parquet(tmp_path / "test.parquet", contents, LABELS, ["dog", "cat"])
    with pytest.raises(InputError, match=r"same class names.*test\.parquet"):
        load_parquet(tmp_path)


def test_a_class_without_a_picture_is_named(tmp_path: Path, write_parquet, contents) -> None:
    write_parquet(tmp_path / "train.parquet", contents, LABELS, ["cat", "dog", "emu"])
    with pytest.raises(InputError, match=r"label 2 \('emu'\)"):
        load_parquet(tmp_path)


def test_grey_pictures_stay_grey_unless_the_test_table_is_in_colour(tmp_path: Path, write_parquet, encode) -> None:
    write_parquet(tmp_path / "train.parquet", [encode(seed, "L") for seed in range(16)], LABELS)
    assert load_parquet(tmp_path).input_shape == (1, 5, 6)
    write_parquet(tmp_path / "test.parquet", [encode(seed, "RGB") for seed in range(16)], LABELS)
    source = load_parquet(tmp_path)
    assert source.input_shape == (3, 5, 6)
    assert bool((source.train.images[:, 0] == source.train.images[:, 2]).all())


def test_progress_counts_pictures_of_all_files(tmp_path: Path, write_parquet, encode) -> None:
    write_parquet(tmp_path / "train.parquet", [encode(seed % 5) for seed in range(300)], [0, 1] * 150)
    write_parquet(tmp_path / "test.parquet", [encode(seed % 5) for seed in range(100)], [0, 1] * 50)
    seen: list[tuple[int, int]] = []
    load_parquet(tmp_path, reading=Reading(lambda done, total: seen.append((done, total))))
    assert seen == [(256, 400), (400, 400)]


def test_a_bad_picture_is_named_by_file_row_and_path(tmp_path: Path, write_parquet, contents) -> None:
    for bad in (contents[9][:50], b"garbage", b""):
        write_parquet(tmp_path / "train.parquet", [*contents[:9], bad, *contents[10:]], LABELS)
        with pytest.raises(InputError, match=r"train\.parquet', row 9 \('9\.png'\).*do not decode"):
            load_parquet(tmp_path)


def test_a_row_without_bytes_or_label_is_named(tmp_path: Path, write_parquet, contents) -> None:
    write_parquet(tmp_path / "train.parquet", [*contents[:9], None, *contents[10:]], LABELS)
    with pytest.raises(InputError, match=r"row 9 \('9\.png'\), got none"):
        load_parquet(tmp_path)
    write_parquet(tmp_path / "train.parquet", contents, [*LABELS[:5], None, *LABELS[6:]])
    with pytest.raises(InputError, match="none in row 5"):
        load_parquet(tmp_path)


def test_two_sizes_are_named_by_row(tmp_path: Path, write_parquet, contents, encode) -> None:
    write_parquet(tmp_path / "train.parquet", [*contents[:3], encode(size=(9, 9)), *contents[4:]], LABELS)
    with pytest.raises(InputError, match=r"6x5 in .*row 0 .* and 9x9 in .*row 3"):
        load_parquet(tmp_path)


IMAGE = pa.array([{"bytes": b"", "path": ""}] * 2)


@pytest.mark.parametrize(
    ("columns", "fact"),
    [
        ({"img": IMAGE, "label": pa.array([0, 1])}, "did you mean 'img'"),
        ({"image": IMAGE, "fine_label": pa.array([0, 1])}, "did you mean 'fine_label'"),
        ({"image": IMAGE, "z": pa.array([0, 1])}, "add 'label'"),
        ({"image": pa.array([b"", b""]), "label": pa.array([0, 1])}, "got binary"),
        ({"image": pa.array([{"path": "x"}] * 2), "label": pa.array([0, 1])}, "struct<path: string>"),
        ({"image": IMAGE, "label": pa.array(["cat", "dog"])}, "got string"),
        ({"image": IMAGE, "label": pa.array([b"0", b"1"])}, "got binary"),
    ],
)
def test_columns_that_are_not_there_or_of_another_type(tmp_path: Path, write_parquet, columns, fact) -> None:
    write_parquet(tmp_path / "train.parquet", [], [], **columns)
    with pytest.raises(SpecError) as caught:
        load_parquet(tmp_path)
    assert fact in str(caught.value)
    assert "train.parquet" in str(caught.value)


def test_what_is_no_parquet_file_is_named(tmp_path: Path, write_parquet, contents) -> None:
    whole = write_parquet(tmp_path / "train.parquet", contents, LABELS).read_bytes()
    for bad in (b"", b"PAR1", b"hello" * 99, whole[:-20], whole[:200] + whole[-200:]):
        (tmp_path / "train.parquet").write_bytes(bad)
        with pytest.raises(InputError, match=r"train\.parquet"):
            load_parquet(tmp_path)


def test_a_path_that_is_no_text_is_refused(tmp_path: Path, write_parquet, contents) -> None:
    paths = pa.array([b"\xff"] * 16).view(pa.string())
    image = pa.StructArray.from_arrays([pa.array(contents), paths], ["bytes", "path"])
    write_parquet(tmp_path / "train.parquet", [], [], image=image, label=pa.array(LABELS))
    with pytest.raises(InputError, match=r"train\.parquet', got 'utf-8' codec"):
        load_parquet(tmp_path)


def test_nothing_to_read(tmp_path: Path, write_parquet, contents) -> None:
    with pytest.raises(MissingDataError, match="no such file"):
        load_parquet(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match="got none"):
        load_parquet(tmp_path)
    with pytest.raises(SpecError, match="expects a path"):
        load_parquet(None)
    write_parquet(tmp_path / "test.parquet", contents, LABELS)
    with pytest.raises(MissingDataError, match=r"only test\.parquet"):
        load_parquet(tmp_path)
    write_parquet(tmp_path / "train.parquet", [], [])
    (tmp_path / "test.parquet").unlink()
    with pytest.raises(InputError, match="empty table"):
        load_parquet(tmp_path)


def test_files_are_found_one_level_down_and_no_deeper(tmp_path: Path, write_parquet, contents) -> None:
    for name in ("b.parquet", "a/c.parquet", "a/d/e.parquet", ".git/f.parquet"):
        write_parquet(tmp_path / name, contents, LABELS)
    assert [file.name for file in parquet_files(tmp_path)] == ["c.parquet", "b.parquet"]
