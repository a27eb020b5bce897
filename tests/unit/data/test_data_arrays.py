"""Arrays in ``.npz`` files and CIFAR's binary layout, whole and broken."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from splitveil.data import arrays as reader
from splitveil.data import load_data
from splitveil.data.arrays import load_arrays
from splitveil.data.cifar import load_cifar
from splitveil.data.sources import guess_source
from splitveil.errors import InputError, MissingDataError


def colours(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def test_one_table_of_colours(tmp_path: Path) -> None:
    file, images = tmp_path / "pets.npz", colours(16)
    np.savez_compressed(file, images=images, labels=np.arange(16) % 2)
    assert guess_source(str(file)) == ("npz", file)
    source = load_arrays(file)
    assert (source.name, source.input_shape, source.classes, source.test) == ("pets", (3, 8, 8), 2, None)
    assert torch.equal(source.train.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert len(load_data(file).train) == 16


def test_the_layout_of_medmnist(tmp_path: Path) -> None:
    """Grey pictures, labels as a column, validation pictures that join the training ones."""
    grey = colours(24)[..., 0]
    parts = {"train": grey[:12], "val": grey[12:16], "test": grey[16:]}
    arrays = {f"{name}_images": part for name, part in parts.items()}
    arrays |= {f"{name}_labels": (np.arange(len(part)) % 2)[:, None].astype(np.uint8) for name, part in parts.items()}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    source = load_arrays(tmp_path / "medmnist.npz")
    assert source.input_shape == (1, 8, 8)
    assert len(source.train) == 16
    assert source.test is not None
    assert torch.equal(source.test.images[:, 0], torch.from_numpy(grey[16:]))
    assert torch.equal(source.train.images[:, 0], torch.from_numpy(grey[:16]))


def test_channels_may_come_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "first.npz", images=colours(16).transpose(0, 3, 1, 2), labels=np.arange(16) % 2)
    assert torch.equal(
        load_arrays(tmp_path / "first.npz").train.images, torch.from_numpy(colours(16)).permute(0, 3, 1, 2)
    )


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros(3, dtype=np.uint8)}, "expected arrays 'images' and 'labels'"),
        ({"images": colours(4), "label": np.arange(4)}, "expected 'labels' or 'targets' or 'masks' beside 'images'"),
        ({"train_images": colours(4), "labels": np.arange(4)}, "expected 'train_labels' or .* beside 'train_images'"),
        (
            {"images": colours(4), "labels": np.arange(4), "masks": np.arange(4)},
            "expected one of labels, targets, masks",
        ),
        ({"images": colours(4), "targets": np.arange(3)}, "expected one value, or row of values, for each of 4"),
        ({"images": colours(4), "masks": np.zeros((4, 2, 2), dtype=int)}, "expected one mask of the pictures' size"),
        (
            {
                "train_images": colours(4),
                "train_labels": np.arange(4),
                "test_images": colours(4),
                "test_targets": np.arange(4),
            },
            "expected the same beside all pictures",
        ),
        ({"images": colours(4).astype(np.int32), "labels": np.arange(4)}, "in uint8"),
        ({"images": colours(4), "labels": np.arange(3)}, "expected one label for each of 4 pictures"),
        ({"images": colours(4), "labels": np.zeros((4, 2), dtype=int)}, "expected one label for each of 4 pictures"),
        ({"images": np.zeros((4, 8, 8, 5), dtype=np.uint8), "labels": np.arange(4)}, "expected 1 or 3 channels"),
        ({"images": colours(4) / 255.0, "labels": np.arange(4)}, "expected whole numbers"),
        ({"images": colours(4), "labels": np.array(3)}, "expected one label for each of 4 pictures"),
        ({"images": colours(4)[:0], "labels": np.arange(0)}, "n of 1 at least"),
        ({"images": colours(4), "masks": np.full((4, 8, 8), 300)}, "expected classes from 0, .* got 300 to 300"),
        ({"images": colours(4), "masks": np.full((4, 8, 8), -3)}, "expected classes from 0, .* got -3 to -3"),
        (
            {
                "train_images": colours(4),
                "train_labels": np.arange(4),
                "val_images": colours(4)[:, :4],
                "val_labels": np.arange(4),
            },
            "expected pictures of one shape",
        ),
        (
            {
                "train_images": colours(4),
                "train_targets": np.zeros((4, 2)),
                "val_images": colours(4),
                "val_targets": np.zeros(4),
            },
            "expected as many values",
        ),
        ({"images": np.array([{}, {}], dtype=object), "labels": np.arange(2)}, "nothing is unpickled"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load_arrays(tmp_path / "wrong.npz")


def test_files_that_lie_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        load_arrays(tmp_path / "text.npz")
    with zipfile.ZipFile(tmp_path / "pickled.npz", "w") as archive:
        archive.writestr("images.pkl", pickle.dumps([1]))
    with pytest.raises(InputError, match=r"got the file 'images.pkl'"):
        load_arrays(tmp_path / "pickled.npz")
    header = np.lib.format.MAGIC_PREFIX + bytes([1, 0])
    told = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("images.npy", header + len(told).to_bytes(2, "little") + told + b"\0" * 16)
    with pytest.raises(InputError, match="to hold 192000000000000 bytes"):
        load_arrays(tmp_path / "huge.npz")
    with pytest.raises(MissingDataError):
        load_arrays(tmp_path / "none.npz")


def test_damaged_encrypted_and_packed_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "packed.npz"
    np.savez_compressed(file, images=colours(64), labels=np.arange(64))
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        place = archive.infolist()[0].header_offset + 60
    file.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        load_arrays(file)
    encrypted = bytearray(whole)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[whole.index(signature) + flags] |= 1
    file.write_bytes(bytes(encrypted))
    with pytest.raises(InputError, match="encrypted"):
        load_arrays(file)
    file.write_bytes(whole)
    monkeypatch.setattr(reader, "memory_bytes", lambda: 4000)
    with pytest.raises(InputError, match=r"fit into the .* of memory"):
        load_arrays(file)


def rows(n: int, labels: int, seed: int) -> bytes:
    draw = np.random.default_rng(seed)
    found = draw.integers(0, 256, (n, labels + 3072), dtype=np.uint8)
    found[:, labels - 1] = np.arange(n) % 10
    return found.tobytes()


def test_cifar_ten_in_its_binary_layout(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(rows(20, 1, number))
    (tmp_path / "test_batch.bin").write_bytes(rows(10, 1, 9))
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"class {number}" for number in range(10)) + "\n\n")
    assert guess_source(str(tmp_path)) == ("cifar", tmp_path)
    source = load_cifar(tmp_path)
    assert (len(source.train), source.classes, source.class_names[3]) == (100, 10, "class 3")
    assert source.test is not None
    first = np.frombuffer(rows(20, 1, 1), dtype=np.uint8)[1:3073].reshape(3, 32, 32)
    assert torch.equal(source.train.images[0], torch.from_numpy(first.copy()))
    (tmp_path / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="expected rows of 3073 bytes"):
        load_cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(MissingDataError, match=r"expected data_batch_2\.bin"):
        load_cifar(tmp_path)


def test_cifar_hundred_has_its_fine_labels(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(rows(80, 2, 1))
    (tmp_path / "test.bin").write_bytes(rows(20, 2, 2))
    source = load_cifar(tmp_path)
    assert source.classes == 10
    assert source.train.labels[:12].tolist() == [*range(10), 0, 1]
