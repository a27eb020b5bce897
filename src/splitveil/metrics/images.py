"""Metrics that compare a reconstruction with its original, one score per picture."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from splitveil.contracts import Metric
from splitveil.metrics.functional import mean_squared_error, peak_signal_to_noise, structural_similarity

__all__ = ["MeanSquaredError", "PeakSignalToNoise", "StructuralSimilarity"]


class MeanSquaredError(Metric):
    """`mean_squared_error` as a metric: a larger error is safer."""

    name: ClassVar[str] = "mse"
    unit: ClassVar[str] = ""
    safer: ClassVar[Literal["higher", "lower"]] = "higher"

    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``."""
        return mean_squared_error(reconstruction, original)


class PeakSignalToNoise(Metric):
    """`peak_signal_to_noise` as a metric: fewer dB are safer."""

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"
    safer: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1], twice, to ``(n,)`` in dB."""
        return peak_signal_to_noise(reconstruction, original)


class StructuralSimilarity(Metric):
    """`structural_similarity` as a metric: less similarity is safer."""

    name: ClassVar[str] = "ssim"
    unit: ClassVar[str] = ""
    safer: ClassVar[Literal["higher", "lower"]] = "lower"

    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``."""
        return structural_similarity(reconstruction, original)
