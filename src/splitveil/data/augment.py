"""Random shifts, flips and rotations of training pictures, on the device that holds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from splitveil.errors import InputError, SpecError
from splitveil.noise import to_device

__all__ = ["augment", "augment_masks"]


def augment(
    pictures: Tensor,
    *,
    crop: int,
    flip: bool,
    rotation: float,
    generator: torch.Generator,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    """Shift, flip and rotate each picture by its own random amounts, in one resampling; zeros come in at the edges.

    ```
    y(p) = x(F R p + t)     R: rotation by U(-rotation, rotation), F: left-right with probability 1/2,
                            t: whole pixels, uniform in [-crop, crop] per axis
    ```
    Without rotation the result is an exact copy of pixels. The numbers are drawn on the CPU, always the same many per
    picture, so that they depend neither on the device nor on which of the three are asked for.

    Args:
        pictures: ``(n, c, h, w)``, float32 or float64 in [0, 1].
        crop: the largest shift in pixels; the same as padding by `crop` and cropping at random.
        flip: whether to flip half of the pictures.
        rotation: the largest angle in degrees.
        generator: a CPU generator.
        first: of the pictures' places in the batch that they are a part of; each place has numbers of its own.
        total: n of that batch; None where these are all of it.

    Returns:
        pictures like those given; the same tensor when nothing is asked for.

    Raises:
        InputError: not a batch of float pictures.
        SpecError: a negative amount.

    Example:
        >>> x = torch.rand(2, 1, 8, 8)
        >>> augment(x, crop=2, flip=True, rotation=15.0, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    if pictures.ndim != 4 or pictures.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"expected pictures of shape (n, c, h, w) in float32 or float64, got {tuple(pictures.shape)} "
            f"in {pictures.dtype}: divide bytes by 255 first"
        )
    if crop < 0 or not 0 <= rotation <= 180:
        raise SpecError(f"expected crop >= 0 and rotation in [0, 180] degrees, got {crop} and {rotation}")
    if not (crop or flip or rotation) or not len(pictures):
        return pictures
    height, width = pictures.shape[2:]
    drawn = _draw(len(pictures) if total is None else total, crop, flip, rotation, height, width, generator)
    theta = drawn[first : first + len(pictures)]
    theta = to_device(theta.to(pictures.dtype), pictures.device)
    # whole pixels need no interpolation, and the nearest one is exact where the grid itself is rounded
    mode = "bilinear" if rotation else "nearest"
    moved = functional.grid_sample(
        pictures, _grid(theta, height, width), mode=mode, padding_mode="zeros", align_corners=False
    )
    return moved.clamp_(0.0, 1.0) if rotation else moved


def augment_masks(
    masks: Tensor,
    *,
    crop: int,
    flip: bool,
    rotation: float,
    generator: torch.Generator,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    """Move masks as `augment` moves their pictures under the same generator; 255 comes in at the edges.

    Args:
        masks: ``(n, h, w)``, uint8.
        crop: see `augment`.
        flip: see `augment`.
        rotation: see `augment`; masks take the nearest pixel.
        generator: a CPU generator in the state that the pictures' had.
        first: see `augment`.
        total: see `augment`.

    Example:
        >>> masks = torch.ones(2, 8, 8, dtype=torch.uint8)
        >>> augment_masks(masks, crop=2, flip=True, rotation=0.0, generator=torch.Generator().manual_seed(0)).unique()
        tensor([  1, 255], dtype=torch.uint8)
    """
    if not (crop or flip or rotation) or not len(masks):
        return masks
    height, width = masks.shape[1:]
    drawn = _draw(len(masks) if total is None else total, crop, flip, rotation, height, width, generator)
    shifted = masks.unsqueeze(1).float() + 1  # so that zeros are what comes in
    theta = to_device(drawn[first : first + len(masks)].to(shifted.dtype), shifted.device)
    grid = _grid(theta, height, width)
    moved = functional.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.where(moved > 0, moved - 1, 255).squeeze(1).to(torch.uint8)


def _draw(
    n: int, crop: int, flip: bool, rotation: float, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Random affine maps ``(n, 2, 3)``, float64, in the coordinates of `grid_sample`: [-1, 1] over each axis."""
    shift = torch.randint(-crop, crop + 1, (n, 2), generator=generator).double()
    mirror = torch.where((torch.rand(n, generator=generator) < 0.5) & flip, -1.0, 1.0).double()
    angle = (2.0 * torch.rand(n, generator=generator, dtype=torch.float64) - 1.0) * math.radians(rotation)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.empty(n, 2, 3, dtype=torch.float64)
    theta[:, 0, 0], theta[:, 0, 1] = mirror * cos, -mirror * sin * height / width
    theta[:, 1, 0], theta[:, 1, 1] = sin * width / height, cos
    theta[:, 0, 2], theta[:, 1, 2] = 2.0 * shift[:, 0] / width, 2.0 * shift[:, 1] / height
    return theta


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, ``(n, h, w, 2)``: torch's `affine_grid`, as two sums of a row and a column.

    A product of matrices costs six times as much, which small nets would notice.
    """
    x, y = ((2 * torch.arange(size, device=theta.device) + 1).to(theta.dtype) / size - 1 for size in (width, height))
    along, down = theta[:, :, 0, None] * x, theta[:, :, 1, None] * y + theta[:, :, 2, None]
    grid = theta.new_empty(len(theta), height, width, 2)
    for axis in (0, 1):
        torch.add(along[:, axis, None, :], down[:, axis, :, None], out=grid[..., axis])
    return grid
