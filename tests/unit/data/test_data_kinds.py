"""Data sets of every kind: live ones, the hub's, FaceScrub's lists, pictures with values, masks or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import FakeData, ImageFolder

from splitveil.data import guess_source, load_data
from splitveil.data.bare import load_bare
from splitveil.data.datasets import as_source, from_dataset
from splitveil.data.facescrub import load_facescrub
from splitveil.data.folder import load_folder
from splitveil.data.hub import load_hub
from splitveil.data.parquet import load_parquet
from splitveil.data.reading import Reading
from splitveil.data.rows import StoredRows, in_memory
from splitveil.data.splits import make_splits
from splitveil.data.tables import Source
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError, UsageError
from splitveil.rng import Rng
from task_fixtures import save_squares, squares

STREAM = Reading(stream=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "pictures"


def same(first: Source, second: Source) -> bool:
    tables = [(first.train, second.train), *([(first.test, second.test)] if first.test or second.test else [])]
    return first.class_names == second.class_names and all(
        a is not None
        and b is not None
        and torch.equal(in_memory(a.images), in_memory(b.images))
        and torch.equal(a.labels, b.labels)
        and (a.targets is None) == (b.targets is None)
        for a, b in tables
    )


# ---------------------------------------------------------------------------------------------- live data sets


def test_torchvision_gives_what_the_folder_gives(tmp_path: Path, write_folder) -> None:
    root = write_folder(tmp_path / "pets", ["cat", "dog"], 10)
    assert same(from_dataset(ImageFolder(root)), load_folder(root))


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: Image.fromarray(pixels),
        lambda pixels: pixels,
        lambda pixels: pixels[:, :, None],
        lambda pixels: torch.from_numpy(pixels)[None],
        lambda pixels: torch.from_numpy(pixels)[None].float() / 255,
        lambda pixels: (pixels / 255.0)[None],
    ],
)
def test_pictures_of_any_type_are_the_same_bytes(change: Callable[[Any], Any]) -> None:
    pictures, labels, _, _ = squares(20)
    source = from_dataset([(change(picture), int(label)) for picture, label in zip(pictures, labels, strict=True)])
    assert torch.equal(in_memory(source.train.images), torch.from_numpy(pictures)[:, None])


def test_colour_of_any_layout_is_the_same_bytes() -> None:
    draw = np.random.default_rng(0).integers(0, 256, (16, 6, 7, 3)).astype(np.uint8)
    for layout in (draw, draw.transpose(0, 3, 1, 2)):
        source = from_dataset([{"img": picture, "label": index % 2} for index, picture in enumerate(layout)])
        assert torch.equal(in_memory(source.train.images), torch.from_numpy(draw.transpose(0, 3, 1, 2).copy()))


@pytest.mark.parametrize(
    ("kind", "shape"), [("targets", (60, 1)), ("masks", (60, 12, 12)), ("nothing", None), ("labels", None)]
)
def test_targets_of_any_kind_and_an_array_file_agree(kind: str, shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    pictures, labels, places, masks = squares(60)
    targets: Any = {"labels": labels, "targets": places, "masks": masks, "nothing": [None] * 60}[kind]
    live = from_dataset(list(zip(pictures, targets, strict=True)))
    saved = load_data(save_squares(tmp_path / "squares.npz", kind, 60))
    assert same(live, saved)
    for source in (live, saved):
        found = source.train.targets
        assert (None if found is None else tuple(found.shape)) == shape
    splits = make_splits(saved, val_share=0.2, aux_share=0.2, test_share=0.2, rng=Rng(0))
    assert sum(splits.sizes.values()) == 60
    if shape is not None:
        assert splits.val.targets is not None
        assert len(splits.val.targets) == len(splits.val)
        changed = from_dataset([(picture, target + (1 if kind == "targets" else 0)) for picture, target in zip(
            pictures, targets if kind == "targets" else 1 - masks.clip(0, 1), strict=True)])  # fmt: skip
        other = make_splits(changed, val_share=0.2, aux_share=0.2, test_share=0.2, rng=Rng(0))
        assert other.digest != splits.digest


def test_a_second_data_set_is_the_test_table() -> None:
    source = from_dataset(FakeData(24, (3, 8, 8), 2), FakeData(12, (3, 8, 8), 2, random_offset=99), name="fake")
    assert source.test is not None
    assert (len(source.train), len(source.test), source.name, source.input_shape) == (24, 12, "fake", (3, 8, 8))


def test_a_live_data_set_is_streamed_to_the_same_bits(cache: Path) -> None:
    data = FakeData(40, (3, 8, 8), 2)
    streamed = from_dataset(data, reading=STREAM)
    assert isinstance(streamed.train.images, StoredRows)
    assert same(streamed, from_dataset(data))


class _Flaky(Dataset[tuple[Any, int]]):
    """Every seventh picture cannot be read."""

    def __len__(self) -> int:
        return 42

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index % 7 == 3:
            raise OSError("image file is truncated")
        return np.full((4, 4), index, dtype=np.uint8), index % 2


def test_what_cannot_be_read_is_counted_and_skipped_when_asked() -> None:
    with pytest.raises(InputError, match="6 of 42 pictures do not decode: item 3 of _Flaky"):
        from_dataset(_Flaky())
    source = from_dataset(_Flaky(), reading=Reading(skip_corrupt=True))
    assert (len(source.train), len(source.skipped)) == (36, 6)
    assert source.train.images[:, 0, 0, 0].tolist() == [index for index in range(42) if index % 7 != 3]
    assert source.train.labels.tolist() == [index % 2 for index in range(42) if index % 7 != 3]


class _Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield 0


PIXELS = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([(PIXELS, 0, 1)] * 20, "a picture and a target in item 0 of list, got 3 things"),
        ([{"picture_file": 1}] * 20, "expected a picture under image"),
        ([(np.full((4, 4), 2.0), 0)] * 20, "leave out the transform that normalises"),
        ([(np.zeros((4, 4, 4), np.uint8), 0)] * 20, "with 1 or 3 channels"),
        ([(np.zeros((4, 4), np.int64), 0)] * 20, "in bytes"),
        ([(PIXELS, 0), (PIXELS, None)] * 20, "none for 20 of 40"),
        ([(PIXELS, [0.0]), (PIXELS, [0.0, 1.0])] * 20, "targets of one shape"),
        ([(PIXELS, "cat")] * 20, "expected classes, values, or masks"),
        ([(PIXELS, float("nan"))] * 20, "finite values"),
        ([(PIXELS, 0.5)] * 7, "at least 8 pictures"),
        ([PIXELS] * 7, "at least 8 pictures"),
        ([(PIXELS, np.zeros((3, 3), np.uint8))] * 20, "masks \\(20, 4, 4\\)"),
        ([(PIXELS, 0)] * 20, "at least two classes"),
        ([], "at least one picture"),
    ],
)
def test_items_that_are_none_are_named(data: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_dataset(data)


def test_an_endless_data_set_is_refused() -> None:
    with pytest.raises(UsageError, match="map-style data set, with a length and items by number, got _Endless"):
        from_dataset(_Endless())
    assert as_source("digits") is None
    assert as_source(None) is None


# ------------------------------------------------------------------------------------------------------ values


def test_a_float_column_is_values(tmp_path: Path, encode) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.array([{"bytes": encode(i), "path": ""} for i in range(40)])
    table = pa.table({"image": image, "label": pa.array([i / 40 for i in range(40)], pa.float64())})
    pq.write_table(table, tmp_path / "ages.parquet")
    source = load_parquet(tmp_path / "ages.parquet")
    assert source.train.targets is not None
    np.testing.assert_allclose(in_memory(source.train.targets)[:, 0], np.arange(40) / 40, rtol=1e-6)
    assert source.classes == 5
    assert load_bare(tmp_path / "ages.parquet").train.targets is None


def test_values_that_are_all_one_are_one_group() -> None:
    source = from_dataset([(PIXELS + index, 1.0) for index in range(20)])
    assert (source.edges, source.class_names) == ((), ("all",))


# ---------------------------------------------------------------------------------------------------- unlabeled


def test_pictures_below_a_folder_need_no_labels(tmp_path: Path, write_folder, encode) -> None:
    root = write_folder(tmp_path / "album", ["2023", "2024"], 6)
    (root / "loose.png").write_bytes(encode(77))
    (root / "Thumbs.db").write_bytes(b"x")
    assert guess_source(f"unlabeled:{root}") == ("unlabeled", root)
    source = load_data(f"unlabeled:{root}")
    assert (len(source.train), source.class_names, source.train.targets) == (13, ("all",), None)
    assert same(source, load_bare(root, reading=STREAM))
    (tmp_path / "void").mkdir()
    with pytest.raises(MissingDataError, match="expected pictures"):
        load_bare(tmp_path / "void")


def test_a_flat_folder_is_told_how_to_go_on(tmp_path: Path, encode) -> None:
    (tmp_path / "1.png").write_bytes(encode(1))
    with pytest.raises(InputError, match="or write unlabeled:"):
        guess_source(str(tmp_path))


# ---------------------------------------------------------------------------------------------------- FaceScrub


def _facescrub(root: Path, people: dict[str, int]) -> dict[str, list[Path]]:
    """The published lists and pictures under names of nobody's choice; two faces in every first picture."""
    root.mkdir()
    found: dict[str, list[Path]] = {}
    for number, (person, count) in enumerate(people.items()):
        lines = ["name\timage_id\tface_id\turl\tbbox\tsha256"]
        for index in range(count):
            pixels = np.full((40, 50, 3), 10 * number + index, dtype=np.uint8)
            pixels[5:25, 10:30] += 100
            file = root / "got" / f"{number}-{index}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            lines.append(f"{person}\t{index}\t{index}\thttp://x/{index}.jpg\t10,5,30,25\t{digest}")
            found.setdefault(person, []).append(file)
        name = "facescrub_actors.txt" if number % 2 else "facescrub_actresses.txt"
        lines += [f"{person}\t99\t99\thttp://gone/\t0,0,5,5\t{'0' * 64}"]
        before = (root / name).read_text().splitlines()[1:] if (root / name).is_file() else []
        (root / name).write_text("\n".join([*lines, *before]) + "\n")
    return found


def test_faces_are_found_by_their_digest_and_cut_out(tmp_path: Path) -> None:
    files = _facescrub(tmp_path / "fs", {"Anna Able": 9, "Bert Baker": 8, "Cleo Cole": 3})
    files["Bert Baker"][0].write_bytes(files["Bert Baker"][1].read_bytes())  # has changed: now a copy of the second
    assert guess_source(str(tmp_path / "fs"))[0] == "facescrub"
    source = load_facescrub(tmp_path / "fs")
    assert source.class_names == ("Anna Able", "Bert Baker")  # three faces are too few
    assert source.input_shape == (3, 64, 64)
    images = in_memory(source.train.images)
    assert sorted(images[source.train.labels == 0][:, 0, 32, 32].tolist()) == [100 + index for index in range(9)]
    assert bool((images == images[:, :1, :1, :1]).all())  # nothing but the box
    assert same(load_facescrub(tmp_path / "fs", reading=STREAM), source)
    assert load_facescrub(tmp_path / "fs", reading=Reading(size=20)).input_shape == (3, 20, 20)


def test_lists_without_pictures_and_damaged_lists_are_named(tmp_path: Path) -> None:
    _facescrub(tmp_path / "fs", {"Anna Able": 2})
    with pytest.raises(MissingDataError, match="got 2 \\(2 files, of which 2 are on a list\\)"):
        load_facescrub(tmp_path / "fs")
    file = tmp_path / "fs" / "facescrub_actresses.txt"
    text = file.read_text()
    file.write_text(text.replace("10,5,30,25", "10,5,30", 1))
    with pytest.raises(InputError, match="a box in line 2"):
        load_facescrub(tmp_path / "fs")
    file.write_text("who\twhat\n")
    with pytest.raises(InputError, match="expected the header name image_id"):
        load_facescrub(tmp_path / "fs")
    file.unlink()
    with pytest.raises(MissingDataError, match="got neither"):
        load_facescrub(tmp_path / "fs")


# ------------------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def saved(tmp_path: Path, encode) -> Callable[..., Path]:
    """A folder as the hub's library saves it."""
    library = pytest.importorskip("datasets")

    def save(label: Any, values: list[Any], splits: dict[str, int]) -> Path:
        features = library.Features({"img": library.Image(), **({} if label is None else {"label": label})})
        tables, start = {}, 0
        for name, count in splits.items():
            cells = [{"bytes": encode(start + index), "path": None} for index in range(count)]
            columns = {"img": cells, **({} if label is None else {"label": values[start : start + count]})}
            tables[name] = library.Dataset.from_dict(columns, features=features)
            start += count
        library.DatasetDict(tables).save_to_disk(str(tmp_path / "hub"))
        return tmp_path / "hub"

    return save


def test_a_saved_data_set_of_the_hub_is_read(saved, encode) -> None:
    library = pytest.importorskip("datasets")
    kind = library.ClassLabel(names=["cat", "dog"])
    folder = saved(kind, [index % 2 for index in range(40)], {"train": 20, "validation": 10, "test": 10})
    assert guess_source(f"hub:{folder}") == ("hub", folder)
    source = load_data(f"hub:{folder}")
    assert source.test is not None
    assert (source.class_names, len(source.train), len(source.test)) == (("cat", "dog"), 30, 10)
    import io

    expected = np.asarray(Image.open(io.BytesIO(encode(35)))).transpose(2, 0, 1)
    np.testing.assert_array_equal(in_memory(source.test.images)[5].numpy(), expected)
    assert same(load_hub(folder, reading=STREAM), source)
    assert isinstance(load_hub(folder, reading=STREAM).train.images, StoredRows)


def test_values_and_nothing_of_the_hub(saved) -> None:
    library = pytest.importorskip("datasets")
    values = load_hub(saved(library.Value("float32"), [index / 30 for index in range(30)], {"train": 20, "test": 10}))
    assert values.test is not None
    assert values.test.targets is not None
    np.testing.assert_allclose(in_memory(values.test.targets)[:, 0], np.arange(20, 30) / 30, rtol=1e-6)


def test_pictures_alone_of_the_hub(saved) -> None:
    assert load_hub(saved(None, [], {"train": 12})).class_names == ("all",)


def test_what_the_hub_cannot_give(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("datasets")
    with pytest.raises(MissingDataError, match="expected a split 'train'"):
        load_hub(saved(None, [], {"test": 12}))
    library.Dataset.from_dict({"text": ["a"] * 10}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(SpecError, match="expected one column of pictures, got none among text"):
        load_hub(tmp_path / "text")
    cells = {"image": [{"bytes": None, "path": "/etc/hostname"}] * 10}
    outside = library.Dataset.from_dict(cells, features=library.Features({"image": library.Image()}))
    monkeypatch.setattr(library, "load_from_disk", lambda folder: outside)
    with pytest.raises(InputError, match="10 of 10 pictures do not decode") as caught:
        load_hub(tmp_path / "text")
    assert "embedded pictures" in str(caught.value)
    with pytest.raises(SpecError, match="expects a name"):
        load_hub(None)
    monkeypatch.setattr("splitveil.data.hub.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"splitveil\[hub\]"):
        load_hub(Path("user/name"))


def test_a_name_that_nobody_has_is_missing_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")

    def offline(*arguments: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(library, "load_dataset", offline)
    with pytest.raises(MissingDataError, match="at 'nobody/nothing', got: Couldn't reach the Hub"):
        load_hub(Path("nobody/nothing"))


def test_columns_of_several_classes_must_be_told_apart(tmp_path: Path, encode) -> None:
    library = pytest.importorskip("datasets")
    cells = [{"bytes": encode(index), "path": None} for index in range(16)]
    two = {"fine_label": [index % 4 for index in range(16)], "coarse_label": [index % 2 for index in range(16)]}
    classes = {"fine_label": library.ClassLabel(num_classes=2), "coarse_label": library.ClassLabel(num_classes=2)}
    two["fine_label"] = [index % 2 for index in range(16)]
    table = library.Dataset.from_dict(
        {"image": cells, **two}, features=library.Features({"image": library.Image(), **classes})
    )
    table.save_to_disk(str(tmp_path / "fine"))
    assert load_hub(tmp_path / "fine").train.labels.tolist() == two["fine_label"]
    table.rename_columns({"fine_label": "sort", "coarse_label": "kind"}).save_to_disk(str(tmp_path / "which"))
    with pytest.raises(SpecError, match="expected one column of labels, got sort, kind"):
        load_hub(tmp_path / "which")
