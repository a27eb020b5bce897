"""Augmentation against torchvision and against slicing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as vision

from splitveil.data.augment import augment
from splitveil.errors import InputError, SpecError
from splitveil.rng import Rng


def pictures(n: int, c: int = 3, h: int = 9, w: int = 12, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, c, h, w, generator=Rng(1).generator(), dtype=dtype)


def drawn(n: int, crop: int, rotation: float, seed: int) -> tuple[list[list[int]], list[bool], list[float]]:
    """The numbers that the documentation promises, in its order."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(-crop, crop + 1, (n, 2), generator=generator).tolist()
    flips = (torch.rand(n, generator=generator) < 0.5).tolist()
    angles = ((2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1) * rotation).tolist()
    return shift, flips, angles


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_shifts_equal_padding_and_slicing() -> None:
    x, crop = pictures(40), 3
    y = augment(x, crop=crop, flip=False, rotation=0.0, generator=seeded(0))
    padded = torch.nn.functional.pad(x, [crop] * 4)
    for i, (right, down) in enumerate(drawn(40, crop, 0.0, 0)[0]):
        top, left = crop + down, crop + right
        torch.testing.assert_close(y[i], padded[i, :, top : top + 9, left : left + 12], atol=0, rtol=0)
        torch.testing.assert_close(y[i], vision.crop(padded[i], top, left, 9, 12), atol=0, rtol=0)


def test_shifts_are_exact_for_large_pictures() -> None:
    x = pictures(4, 1, 224, 225)
    y = augment(x, crop=28, flip=True, rotation=0.0, generator=seeded(3))
    shift, flips, _ = drawn(4, 28, 0.0, 3)
    padded = torch.nn.functional.pad(x, [28] * 4)
    for i, ((right, down), mirror) in enumerate(zip(shift, flips, strict=True)):
        expected = padded[i, :, 28 + down : 252 + down, 28 + right : 253 + right]
        torch.testing.assert_close(y[i], expected.flip(-1) if mirror else expected, atol=0, rtol=0)


def test_flips_equal_torchvision() -> None:
    x = pictures(40)
    y = augment(x, crop=0, flip=True, rotation=0.0, generator=seeded(1))
    flips = drawn(40, 0, 0.0, 1)[1]
    assert 10 < sum(flips) < 30
    for i, mirror in enumerate(flips):
        torch.testing.assert_close(y[i], vision.horizontal_flip(x[i]) if mirror else x[i], atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (9, 12), (32, 32)])
def test_rotations_equal_torchvision(shape: tuple[int, int]) -> None:
    x = pictures(12, 3, *shape)
    y = augment(x, crop=0, flip=False, rotation=40.0, generator=seeded(2))
    for i, angle in enumerate(drawn(12, 0, 40.0, 2)[2]):
        expected = vision.rotate(x[i], angle, interpolation=vision.InterpolationMode.BILINEAR)
        torch.testing.assert_close(y[i], expected, atol=1e-5, rtol=0)


def test_all_three_are_one_map_of_the_original_picture() -> None:
    """In float64, pixel by pixel: rotate about the centre, mirror, shift, then read between the pixels."""
    x, (h, w) = pictures(5, 1, 7, 10, torch.float64), (7, 10)
    y = augment(x, crop=2, flip=True, rotation=30.0, generator=seeded(4))
    shift, flips, angles = drawn(5, 2, 30.0, 4)
    for i in range(5):
        source, expected = x[i, 0].numpy(), np.zeros((h, w))
        cos, sin = np.cos(np.radians(angles[i])), np.sin(np.radians(angles[i]))
        for row in range(h):
            for column in range(w):
                right, down = column - (w - 1) / 2, row - (h - 1) / 2
                u = (cos * right - sin * down) * (-1 if flips[i] else 1) + shift[i][0] + (w - 1) / 2
                v = sin * right + cos * down + shift[i][1] + (h - 1) / 2
                for r in (int(np.floor(v)), int(np.floor(v)) + 1):
                    for c in (int(np.floor(u)), int(np.floor(u)) + 1):
                        if 0 <= r < h and 0 <= c < w:
                            expected[row, column] += source[r, c] * (1 - abs(v - r)) * (1 - abs(u - c))
        np.testing.assert_allclose(y[i, 0].numpy(), expected, atol=1e-12)


def test_crop_then_flip_agrees_with_torchvision_in_turn() -> None:
    x = pictures(20)
    y = augment(x, crop=2, flip=True, rotation=0.0, generator=seeded(5))
    shift, flips, _ = drawn(20, 2, 0.0, 5)
    for i in range(20):
        cut = vision.crop(vision.pad(x[i], [2]), 2 + shift[i][1], 2 + shift[i][0], 9, 12)
        torch.testing.assert_close(y[i], vision.horizontal_flip(cut) if flips[i] else cut, atol=0, rtol=0)


def test_the_amounts_are_uniform() -> None:
    x = torch.zeros(4000, 1, 1, 5)
    x[..., 2] = 1.0
    y = augment(x, crop=2, flip=False, rotation=0.0, generator=seeded(6))
    kept = y[y.sum(dim=(1, 2, 3)) > 0]  # a vertical shift empties a picture of one row
    counts = kept.flatten(1).argmax(dim=1).bincount(minlength=5)
    assert len(kept) == pytest.approx(800, abs=120)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_numbers_do_not_depend_on_what_is_asked_for() -> None:
    x = pictures(16)
    with_flip = augment(x, crop=3, flip=True, rotation=0.0, generator=seeded(7))
    without = augment(x, crop=3, flip=False, rotation=0.0, generator=seeded(7))
    flips = torch.tensor(drawn(16, 3, 0.0, 7)[1])
    torch.testing.assert_close(with_flip[~flips], without[~flips], atol=0, rtol=0)
    assert not torch.equal(with_flip[flips], without[flips])


def test_nothing_asked_for_gives_the_same_tensor_and_draws_nothing() -> None:
    x, generator = pictures(3), seeded(8)
    before = generator.get_state()
    assert augment(x, crop=0, flip=False, rotation=0.0, generator=generator) is x
    assert torch.equal(before, generator.get_state())
    empty = x[:0]
    assert augment(empty, crop=2, flip=True, rotation=9.0, generator=generator) is empty


@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_a_part_of_a_batch_is_changed_as_in_the_batch(rotation: float) -> None:
    x = pictures(11)
    whole = augment(x, crop=2, flip=True, rotation=rotation, generator=seeded(10))
    parts = [
        augment(x[rows], crop=2, flip=True, rotation=rotation, generator=seeded(10), first=rows.start, total=11)
        for rows in (slice(0, 6), slice(6, 11))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_a_white_picture_does_not_get_whiter() -> None:
    for seed in range(20):
        y = augment(torch.ones(8, 1, 31, 33), crop=0, flip=False, rotation=180.0, generator=seeded(seed))
        assert float(y.max()) <= 1.0


def test_the_pictures_given_are_not_changed() -> None:
    x = pictures(8)
    copy = x.clone()
    augment(x, crop=2, flip=True, rotation=20.0, generator=seeded(9))
    assert torch.equal(x, copy)


@pytest.mark.parametrize(
    ("x", "fact"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "divide bytes by 255"),
        (torch.zeros(1, 4, 4), r"\(1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float16), "float16"),
    ],
)
def test_other_pictures_are_refused(x: torch.Tensor, fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        augment(x, crop=1, flip=False, rotation=0.0, generator=seeded(0))


@pytest.mark.parametrize(("crop", "rotation"), [(-1, 0.0), (0, -1.0), (0, 181.0), (0, float("nan"))])
def test_other_amounts_are_refused(crop: int, rotation: float) -> None:
    with pytest.raises(SpecError, match="crop >= 0 and rotation"):
        augment(pictures(2), crop=crop, flip=False, rotation=rotation, generator=seeded(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_numbers_on_any_device() -> None:
    x = pictures(16, 3, 32, 32)
    here = augment(x, crop=4, flip=True, rotation=15.0, generator=seeded(1))
    there = augment(x.cuda(), crop=4, flip=True, rotation=15.0, generator=seeded(1))
    torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=0)
