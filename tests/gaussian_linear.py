"""A world in which the best attacker is known: Gaussian pictures, a linear head, Gaussian noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attack_fixtures import PICTURE, model
from splitveil.attacks.subjects import ModelSubject
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

D, Q = 64, 32
NOISE_STD = 0.1
Matrix = NDArray[np.float64]


@cache
def covariance() -> Matrix:
    """Of the pictures, ``(d, d)``: neighbours are alike; the standard deviation is 0.12."""
    rows, columns = np.divmod(np.arange(D), 8)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return np.asarray(0.12**2 * np.exp(-distance / 3))


def pictures(n: int, key: str) -> Pictures:
    """Draws around grey, as bytes; fewer than one value in 10,000 is cut off."""
    factor = np.linalg.cholesky(covariance())
    drawn = 0.5 + Rng(1).child(key).numpy().standard_normal((n, D)) @ factor.T
    images = torch.from_numpy((255 * drawn).round().clip(0, 255).astype(np.uint8)).reshape(n, *PICTURE)
    return Pictures(ImageTable(images, torch.zeros(n, dtype=torch.int64)))


def linear_head() -> nn.Sequential:
    """``z = A x + b``, ``(n, 1, 8, 8)`` to ``(n, 32)``."""
    with Rng(2).scoped():
        layer = nn.Linear(D, Q)
        nn.init.orthogonal_(layer.weight)
        return nn.Sequential(nn.Flatten(), layer)


def subject(noise_std: float = NOISE_STD) -> ModelSubject:
    return ModelSubject(model(Gaussian(noise_std), linear_head()))


def matrix() -> Matrix:
    """A, float64."""
    layer = linear_head()[1]
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().double().numpy()


def mmse(observations: int = 1) -> float:
    """Trace of the posterior covariance over d: what no attacker beats on average."""
    a, s = matrix(), covariance()
    seen = a @ s @ a.T + NOISE_STD**2 / observations * np.eye(Q)
    return float(np.trace(s - s @ a.T @ np.linalg.solve(seen, a @ s)) / D)


def releases(x: Tensor, observations: int = 1) -> Tensor:
    """Releases of the test pictures, averaged."""
    attacked = subject()
    drawn = [attacked.release(x, SeededNoise(Rng(3).child(m))) for m in range(observations)]
    return torch.stack(drawn).mean(0)
