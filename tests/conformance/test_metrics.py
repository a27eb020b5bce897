"""Every registered metric scores pictures one by one; a new one needs a row in `LEAST_SAFE`.

That the numbers are right is tested against other libraries, beside the metrics' own tests.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from splitveil.contracts import Metric
from splitveil.errors import SplitveilError
from splitveil.registry import METRICS
from splitveil.rng import Rng

LEAST_SAFE = {"mse": 0.0, "psnr": None, "ssim": 1.0}
"""The score of a perfect copy; None for a cap that the metric chooses."""
BUILT_IN = [entry.name for entry in METRICS if entry.target.startswith("splitveil.")]

each_metric = pytest.mark.parametrize("name", BUILT_IN)


def make(name: str) -> Metric:
    metric: Metric = METRICS.load(name)()
    return metric


def originals(n: int = 6, shape: tuple[int, ...] = (3, 16, 16)) -> Tensor:
    return torch.rand(n, *shape, generator=Rng(0).generator())


def spoilt(original: Tensor, share: float) -> Tensor:
    """The original with that share of noise."""
    noise = torch.rand(original.shape, generator=Rng(1).generator())
    return (1.0 - share) * original + share * noise


def test_every_metric_has_a_row() -> None:
    assert sorted(LEAST_SAFE) == sorted(BUILT_IN), "give the new metric the score of a perfect copy in LEAST_SAFE"


@each_metric
def test_class_facts(name: str) -> None:
    metric = make(name)
    assert metric.name == name
    assert metric.safer in ("higher", "lower")
    assert isinstance(metric.unit, str)


@each_metric
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 16), (3, 32, 17)])
def test_one_score_per_picture(name: str, shape: tuple[int, ...]) -> None:
    x = originals(4, shape)
    scores = make(name)(spoilt(x, 0.3), x)
    assert scores.shape == (4,)
    assert scores.is_floating_point()
    assert bool(torch.isfinite(scores).all())


@each_metric
def test_a_score_depends_on_its_own_picture_alone(name: str) -> None:
    metric, x = make(name), originals()
    y = spoilt(x, 0.3)
    scores = metric(y, x)
    for row in range(len(x)):
        torch.testing.assert_close(metric(y[row : row + 1], x[row : row + 1])[0], scores[row])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(metric(y[order], x[order]), scores[order])


@each_metric
def test_a_perfect_copy_is_finite_and_the_least_safe(name: str) -> None:
    metric, x = make(name), originals()
    perfect = metric(x, x)
    assert bool(torch.isfinite(perfect).all())
    if LEAST_SAFE[name] is not None:
        torch.testing.assert_close(perfect, torch.full((len(x),), LEAST_SAFE[name]).to(perfect))
    sign = 1.0 if metric.safer == "higher" else -1.0
    ladder = [sign * metric(spoilt(x, share), x) for share in (0.0, 0.1, 0.3, 0.6, 1.0)]
    for nearer, farther in pairwise(ladder):
        assert bool((nearer < farther).all())


@each_metric
@pytest.mark.parametrize("shape", [(6, 3, 16, 15), (5, 3, 16, 16), (3, 16, 16)])
def test_pictures_of_other_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(SplitveilError, match="expected"):
        make(name)(torch.zeros(shape), originals())
