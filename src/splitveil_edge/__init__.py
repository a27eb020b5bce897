"""The device's half of a split: it draws the noise, computes the release and asks the cloud, without PyTorch."""

from __future__ import annotations

__version__ = "0.1.0"

__all__: list[str] = []
