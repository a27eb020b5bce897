"""Auxiliary pictures that are not quite of the kind that is attacked: what a realistic attacker holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from splitveil.data.rows import in_memory
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError
from splitveil.rng import Rng

__all__ = ["corrupt", "hold_out_classes", "resize_like"]


def _brightness(images: Tensor, draw: float) -> Tensor:
    return transforms.adjust_brightness(images, 0.5 + draw)


def _contrast(images: Tensor, draw: float) -> Tensor:
    return transforms.adjust_contrast(images, 0.4 + 0.8 * draw)


def _blur(images: Tensor, draw: float) -> Tensor:
    return transforms.gaussian_blur(images, [3, 3], [0.4 + 0.8 * draw])


def _pixelate(images: Tensor, draw: float) -> Tensor:
    sides = list(images.shape[-2:])
    small = [max(1, round(side * (0.5 + 0.4 * draw))) for side in sides]
    return _to_bytes(_resize(_resize(images.float(), small), sides))


def _resize(images: Tensor, sides: list[int]) -> Tensor:
    return functional.interpolate(images, size=sides, mode="bilinear", antialias=True, align_corners=False)


def _to_bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


_CORRUPTIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (_brightness, _contrast, _blur, _pixelate)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_GROUP = 64  # pictures that share a corruption and its strength


def corrupt(table: ImageTable, rng: Rng) -> ImageTable:
    """Every picture too bright or dark, flat or harsh, blurred, or coarse: another camera, another day.

    Args:
        table: pictures, left as they are.
        rng: decides which picture suffers what, and how much.

    Example:
        >>> pictures = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
        >>> table = ImageTable(pictures, torch.zeros(8, dtype=torch.int64))
        >>> bool((corrupt(table, Rng(0)).images != table.images).any())
        True
    """
    generator = rng.generator()
    held = in_memory(table.images)
    order, images = torch.randperm(len(table), generator=generator), held.clone()
    for number, rows in enumerate(torch.split(order, max(1, min(_GROUP, len(table) // len(_CORRUPTIONS))))):
        change = _CORRUPTIONS[number % len(_CORRUPTIONS)]
        images[rows] = change(held[rows], float(torch.rand((), generator=generator)))
    return ImageTable(images, table.labels)


def hold_out_classes(table: ImageTable, rng: Rng) -> ImageTable:
    """The pictures of a random half of the classes, rounded up; labels keep their numbers.

    Args:
        table: pictures of at least two classes.
        rng: decides which classes stay.

    Raises:
        InputError: there is one class only.

    Example:
        >>> table = ImageTable(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 4)
        >>> len(hold_out_classes(table, Rng(0)).labels.unique())
        2
    """
    classes = torch.unique(table.labels)
    if len(classes) < 2:
        raise InputError(f"expected auxiliary pictures of two classes or more to hold some out, got {len(classes)}")
    kept = classes[torch.randperm(len(classes), generator=rng.generator())[: -(-len(classes) // 2)]]
    return table.take(torch.isin(table.labels, kept).nonzero().flatten())


def resize_like(table: ImageTable, shape: tuple[int, ...]) -> ImageTable:
    """Pictures of another data set at the size and with the channels of this one.

    Args:
        table: pictures of any size, grey or colour.
        shape: ``(c, h, w)``, c 1 or 3 where the table's differs.

    Raises:
        InputError: the channels cannot be turned into each other.

    Example:
        >>> table = ImageTable(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2))
        >>> tuple(resize_like(table, (3, 8, 8)).images.shape)
        (2, 3, 8, 8)
    """
    channels, height, width = shape
    held = table.images.shape[1]
    if held != channels and {held, channels} != {1, 3}:
        raise InputError(f"expected auxiliary pictures with {channels} channels, got {held}: convert them")
    images = in_memory(table.images).float()
    if held == 3 and channels == 1:
        images = (images * images.new_tensor(_LUMA).reshape(3, 1, 1)).sum(1, keepdim=True)
    images = _to_bytes(_resize(images, [height, width]))
    return ImageTable(images.repeat(1, channels // images.shape[1], 1, 1), table.labels)
