"""Per-picture error and similarity as pure functions: two batches of pictures in, one number per picture out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from splitveil.errors import InputError

__all__ = [
    "PSNR_CAP_DB",
    "mean_squared_error",
    "peak_signal_to_noise",
    "similarity_for_training",
    "structural_similarity",
]

PSNR_CAP_DB = 100.0
"""PSNR of a perfect copy, dB; it stands for every mean squared error up to 1e-10."""

_SSIM_SIGMA = 1.5
_SSIM_WINDOW = 11
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_CHUNK_VALUES = 2**22


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each picture.

    ``mse_i = mean over (c, h, w) of (a_i - b_i)^2``

    Args:
        a: ``(n, c, h, w)``, floating point in [0, 1].
        b: the same.

    Returns:
        ``(n,)``, the wider floating-point type of the two, in [0, 1].

    Raises:
        InputError: shapes differ, values lie outside [0, 1] or are NaN, or there is no picture.

    Example:
        >>> mean_squared_error(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5))
        tensor([0.2500, 0.2500])
    """
    _check_pictures(a, b)
    return _per_picture(_squared_error, a, b)


def peak_signal_to_noise(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB, with peak value 1.

    ``psnr_i = min(100, -10 log10 mse_i)``: the cap makes a perfect copy finite.

    Args:
        a: ``(n, c, h, w)``, floating point in [0, 1].
        b: the same.

    Returns:
        ``(n,)``, the wider floating-point type of the two, in [0, 100].

    Raises:
        InputError: shapes differ, values lie outside [0, 1] or are NaN, or there is no picture.

    Example:
        >>> peak_signal_to_noise(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.1))
        tensor([20.])
    """
    _check_pictures(a, b)
    return _per_picture(_decibels, a, b)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (SSIM) of each picture, mean over channels and pixels.

    ``ssim = (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2))``
    with C1 = 0.01^2, C2 = 0.03^2 and moments under a Gaussian window of sigma 1.5 pixels, 11 x 11, or the largest
    odd window that fits each side of a smaller picture. Every pixel is the centre of one window; the picture is
    reflected at its border.

    Args:
        a: ``(n, c, h, w)``, floating point in [0, 1].
        b: the same.

    Returns:
        ``(n,)``, the wider floating-point type of the two, in [-1, 1].

    Raises:
        InputError: shapes differ, values lie outside [0, 1] or are NaN, or there is no picture.

    Example:
        >>> x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
        >>> float(structural_similarity(x, x))
        1.0

    Reference:
        Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, IEEE TIP 2004, eq. 13.
    """
    _check_pictures(a, b)
    return _per_picture(_ssim, a, b)


def similarity_for_training(a: Tensor, b: Tensor) -> Tensor:
    """`structural_similarity` without its checks, in float32 at least, whatever autocast says: cheap to train on.

    Args:
        a: ``(n, c, h, w)``, floating point.
        b: the same.

    Returns:
        ``(n,)``, with gradient.

    Example:
        >>> x = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
        >>> abs(float(similarity_for_training(x, x * 0.5) - structural_similarity(x, x * 0.5))) < 1e-4
        True
    """
    dtype = _wider(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return _ssim(a.to(dtype), b.to(dtype))


def _check_pictures(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"expected two batches of pictures of one shape, got {tuple(a.shape)} and {tuple(b.shape)}: "
            "compare each picture with its own original"
        )
    if a.ndim != 4 or a.numel() == 0:
        cure = "the batch axis is missing, pass x[None]" if a.ndim == 3 else "pass at least one picture"
        raise InputError(f"expected pictures of shape (n, c, h, w), got {tuple(a.shape)}: {cure}")
    for pictures in (a, b):
        if not pictures.is_floating_point():
            raise InputError(f"expected floating-point pictures in [0, 1], got {pictures.dtype}: divide by 255")
        low, high = (float(value) for value in torch.aminmax(pictures.detach()))
        # written so that NaN fails it
        if not (low >= 0.0 and high <= 1.0):
            raise InputError(f"expected pictures in [0, 1], got values from {low:g} to {high:g}: scale or clamp them")


def _per_picture(score: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Score in float64, a bounded number of pictures at a time: moments need the digits, the copies the memory."""
    dtype = _wider(a, b)
    rows = max(1, _CHUNK_VALUES // a[0].numel())
    spans = [slice(start, start + rows) for start in range(0, len(a), rows)]
    return torch.cat([score(a[span].double(), b[span].double()) for span in spans]).to(dtype)


def _wider(a: Tensor, b: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


def _decibels(a: Tensor, b: Tensor) -> Tensor:
    return -10.0 * torch.log10(_squared_error(a, b).clamp_min(10.0 ** (-PSNR_CAP_DB / 10.0)))


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    n, _, h, w = a.shape
    down, across = _window_means(h, a), _window_means(w, a).T.contiguous()

    def local_mean(value: Tensor) -> Tensor:
        return down @ (value @ across)

    mean_a, mean_b = local_mean(a), local_mean(b)
    variance_a = (local_mean(a * a) - mean_a.square()).clamp_min(0.0)
    variance_b = (local_mean(b * b) - mean_b.square()).clamp_min(0.0)
    covariance = local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _SSIM_C1) / (mean_a.square() + mean_b.square() + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_a + variance_b + _SSIM_C2)
    return (luminance * structure).reshape(n, -1).mean(1)


def _window_means(size: int, like: Tensor) -> Tensor:
    """``(size, size)``, which takes a line of pixels to its means under the window, reflected at both ends.

    A product with it takes a tenth of the time of a convolution at 32 pixels, and half at 512.
    """
    window = _gaussian_window(size, like)
    border = len(window) // 2
    line = torch.eye(size, dtype=like.dtype, device=like.device).unsqueeze(1)
    return F.conv1d(F.pad(line, (border, border), mode="reflect"), window.reshape(1, 1, -1)).squeeze(1).T


def _gaussian_window(size: int, like: Tensor) -> Tensor:
    """Gaussian weights that sum to 1, for a picture of that many pixels along one side."""
    taps = min(_SSIM_WINDOW, size if size % 2 else size - 1)
    offset = torch.arange(taps, dtype=like.dtype, device=like.device) - taps // 2
    weight = torch.exp(-0.5 * (offset / _SSIM_SIGMA).square())
    return weight / weight.sum()
