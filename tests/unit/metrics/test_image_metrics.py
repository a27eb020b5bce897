"""Picture metrics against torchmetrics and against float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from splitveil.contracts import Metric
from splitveil.errors import InputError
from splitveil.metrics import functional
from splitveil.metrics.functional import (
    PSNR_CAP_DB,
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)
from splitveil.registry import METRICS
from splitveil.rng import Rng

FUNCTIONS = [mean_squared_error, peak_signal_to_noise, structural_similarity]


def pictures(n: int, c: int, h: int, w: int, *, key: str = "a", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(n, c, h, w, generator=Rng(7).child(key).generator(), dtype=dtype)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of one picture (c, h, w) pixel by pixel, with the full two-dimensional window."""

    def window(size: int) -> np.ndarray:
        taps = min(11, size if size % 2 else size - 1)
        offsets = np.arange(taps) - taps // 2
        weights = np.exp(-(offsets**2) / (2 * 1.5**2))
        return weights / weights.sum()

    _, h, w = a.shape
    kernel = np.outer(window(h), window(w))
    rows, columns = kernel.shape
    values = []
    for left, right in zip(a, b, strict=True):
        left = np.pad(left, ((rows // 2,) * 2, (columns // 2,) * 2), mode="reflect")
        right = np.pad(right, ((rows // 2,) * 2, (columns // 2,) * 2), mode="reflect")
        for i in range(h):
            for j in range(w):
                p, q = left[i : i + rows, j : j + columns], right[i : i + rows, j : j + columns]
                mp, mq = (kernel * p).sum(), (kernel * q).sum()
                vp, vq = (kernel * (p - mp) ** 2).sum(), (kernel * (q - mq) ** 2).sum()
                cov = (kernel * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (3, 1, 16, 24), (2, 3, 11, 11)])
def test_ssim_agrees_with_torchmetrics(shape: tuple[int, int, int, int]) -> None:
    a = pictures(*shape, dtype=torch.float64)
    b = (a + 0.2 * pictures(*shape, key="b", dtype=torch.float64)).clamp(0, 1)
    expected = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    torch.testing.assert_close(structural_similarity(a, b), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 5, 20), (1, 1, 1, 4), (1, 2, 10, 12)])
def test_ssim_of_small_pictures_agrees_with_a_loop_over_pixels(shape: tuple[int, int, int, int]) -> None:
    a, b = pictures(*shape), pictures(*shape, key="b")
    expected = [slow_ssim(p, q) for p, q in zip(a.double().numpy(), b.double().numpy(), strict=True)]
    torch.testing.assert_close(
        structural_similarity(a, b).double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_psnr_and_mse_agree_with_torchmetrics_and_numpy() -> None:
    a, b = pictures(6, 3, 9, 7), pictures(6, 3, 9, 7, key="b")
    expected_db = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(peak_signal_to_noise(a, b), expected_db)
    expected = ((a.double().numpy() - b.double().numpy()) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(mean_squared_error(a, b).numpy(), expected, rtol=1e-6)


def test_perfect_copies_have_finite_scores() -> None:
    a = pictures(3, 1, 8, 8)
    assert mean_squared_error(a, a).tolist() == [0.0] * 3
    assert peak_signal_to_noise(a, a).tolist() == [PSNR_CAP_DB] * 3
    torch.testing.assert_close(structural_similarity(a, a), torch.ones(3))


def test_black_against_white() -> None:
    black, white = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    assert float(peak_signal_to_noise(black, white)) == 0.0
    assert float(structural_similarity(black, white)) == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-4)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_chunks_do_not_change_a_score(function, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pictures(7, 1, 8, 8), pictures(7, 1, 8, 8, key="b")
    whole = function(a, b)
    monkeypatch.setattr(functional, "_CHUNK_VALUES", 3 * 64)
    assert torch.equal(function(a, b), whole)
    assert whole.shape == (7,)
    assert whole.dtype == torch.float32


@pytest.mark.parametrize("function", FUNCTIONS)
def test_scores_have_gradients(function) -> None:
    a = pictures(2, 1, 8, 8, dtype=torch.float64) * 0.8 + 0.1
    b = pictures(2, 1, 8, 8, key="b", dtype=torch.float64) * 0.8 + 0.1
    assert torch.autograd.gradcheck(lambda x: function(x, b), (a.requires_grad_(),))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4), "one shape"),
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), "batch axis is missing"),
        (torch.zeros(0, 1, 4, 4), torch.zeros(0, 1, 4, 4), "at least one picture"),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 1.5), r"in \[0, 1\]"),
        (torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), torch.nan), r"in \[0, 1\]"),
    ],
)
def test_what_is_not_a_picture_is_refused(function, a: torch.Tensor, b: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(a, b)


def test_registry_names_load_metrics_of_those_names() -> None:
    a, b = pictures(4, 3, 12, 12), pictures(4, 3, 12, 12, key="b")
    facts = {"mse": ("", "higher"), "psnr": ("dB", "lower"), "ssim": ("", "lower")}
    assert {entry.name for entry in METRICS} >= set(facts)
    for name, function in zip(facts, FUNCTIONS, strict=True):
        metric = METRICS.load(name)()
        assert isinstance(metric, Metric)
        assert (metric.name, (metric.unit, metric.safer)) == (name, facts[name])
        assert torch.equal(metric(a, b), function(a, b))
