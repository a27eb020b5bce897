"""LPIPS against a formula in NumPy and float64, on random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from splitveil.errors import InputError, MissingDataError
from splitveil.metrics.lpips import Lpips
from splitveil.rng import Rng

# kernel, stride, padding of each convolution; "pool" with its kernel and stride: written from the papers' tables
ALEXNET: tuple[Any, ...] = (
    (0, 3, 64, 11, 4, 2), ("pool", 3), (3, 64, 192, 5, 1, 2), ("pool", 3), (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1), (10, 256, 256, 3, 1, 1),
)  # fmt: skip
ALEXNET_TAPS = (0, 3, 6, 8, 10)
VGG: tuple[Any, ...] = (
    (0, 3, 64), (2, 64, 64), ("pool", 2), (5, 64, 128), (7, 128, 128), ("pool", 2), (10, 128, 256), (12, 256, 256),
    (14, 256, 256), ("pool", 2), (17, 256, 512), (19, 512, 512), (21, 512, 512), ("pool", 2), (24, 512, 512),
    (26, 512, 512), (28, 512, 512),
)  # fmt: skip
VGG_TAPS = (2, 7, 14, 21, 28)
CHANNELS = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}


def layers_of(trunk: str) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    if trunk == "alexnet":
        return ALEXNET, ALEXNET_TAPS
    return tuple(row if row[0] == "pool" else (*row, 3, 1, 1) for row in VGG), VGG_TAPS


def weights(trunk: str) -> dict[str, Tensor]:
    generator = Rng(0).generator()
    tensors = {}
    for row in layers_of(trunk)[0]:
        if row[0] != "pool":
            place, inputs, outputs, kernel, _, _ = row
            weight = torch.randn(outputs, inputs, kernel, kernel, generator=generator)
            tensors[f"features.{place}.weight"] = weight * (2 / (inputs * kernel**2)) ** 0.5
            tensors[f"features.{place}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    for level, size in enumerate(CHANNELS[trunk]):
        tensors[f"lin{level}.weight"] = torch.rand(1, size, 1, 1, generator=generator)
    return tensors


def reference(trunk: str, tensors: dict[str, Tensor], a: Tensor, b: Tensor) -> np.ndarray[Any, Any]:
    """Equation 1 of the paper in float64; pixel by pixel where it is about pixels."""

    def maps(x: Tensor) -> list[np.ndarray[Any, Any]]:
        rgb = x.double().repeat(1, 3 // x.shape[1], 1, 1)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double().reshape(2, 1, 3, 1, 1)
        value, found = (rgb - mean) / std, []
        rows, taps = layers_of(trunk)
        for row in rows:
            if row[0] == "pool":
                value = functional.max_pool2d(value, row[1], 2)
                continue
            place, _, _, _, stride, padding = row
            weight, bias = (tensors[f"features.{place}.{name}"].double() for name in ("weight", "bias"))
            value = functional.conv2d(value, weight, bias, stride, padding).clamp_min(0)
            if place in taps:
                found.append(value.numpy())
        return found

    total = np.zeros(len(a))
    for level, (left, right) in enumerate(zip(maps(a), maps(b), strict=True)):
        head = tensors[f"lin{level}.weight"].double().numpy().ravel()
        count, _, height, width = left.shape
        for i in range(count):
            for y in range(height):
                for x in range(width):
                    u, v = left[i, :, y, x], right[i, :, y, x]
                    u, v = u / max(np.linalg.norm(u), 1e-10), v / max(np.linalg.norm(v), 1e-10)
                    total[i] += float(head @ (u - v) ** 2) / (height * width)
    return total


@pytest.fixture(scope="module", params=["alexnet", "vgg16"])
def trunk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(trunk: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "weights.safetensors"
    save_file(weights(trunk), path)
    return path


@pytest.fixture(scope="module")
def metric(file: Path) -> Lpips:
    generator = torch.get_rng_state()
    metric = Lpips(file)
    assert torch.equal(torch.get_rng_state(), generator)
    return metric


def pictures(n: int, shape: tuple[int, ...], key: str) -> Tensor:
    return torch.rand(n, *shape, generator=Rng(1).child(key).generator())


@pytest.mark.parametrize("shape", [(3, 32, 35), (1, 31, 31)])
def test_it_is_the_papers_formula(trunk: str, metric: Lpips, shape: tuple[int, ...]) -> None:
    assert metric.trunk == trunk
    a, b = pictures(2, shape, "a"), pictures(2, shape, "b")
    got = metric(a, b)
    assert got.dtype == torch.float32
    # the heads' shift and scale round ImageNet's mean and deviation to three digits
    np.testing.assert_allclose(got.numpy(), reference(trunk, weights(trunk), a, b), rtol=5e-3)
    torch.testing.assert_close(metric(b, a), got)
    torch.testing.assert_close(metric(a[1:], b[1:]), got[1:])


def test_a_copy_is_at_distance_zero_and_noise_moves_away(metric: Lpips) -> None:
    x = pictures(3, (3, 32, 32), "a")
    assert metric(x, x).tolist() == [0.0] * 3
    noise = pictures(3, (3, 32, 32), "b")
    near, far = (metric(x + share * (noise - x), x) for share in (0.1, 0.5))
    assert bool((near < far).all())
    assert (metric.name, metric.safer) == ("lpips", "higher")


def test_the_gradient_is_finite_even_where_nothing_is_seen(metric: Lpips) -> None:
    x = pictures(2, (3, 32, 32), "a").requires_grad_()
    black = torch.zeros(2, 3, 32, 32, requires_grad=True)
    for gradient in torch.autograd.grad(metric(x, black).sum(), (x, black)):
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).any())


def test_pictures_that_do_not_fit_are_refused(metric: Lpips) -> None:
    x = pictures(2, (3, 32, 32), "a")
    for a, b in ((x[0], x[0]), (x, x[:1]), (x[:, :2], x[:, :2]), (x[:0], x[:0]), (x[..., :8], x[..., :8])):
        with pytest.raises(InputError, match="expected"):
            metric(a, b)
    for wrong in (x + 1, x * torch.nan, (255 * x).long()):
        with pytest.raises(InputError, match=r"expected floating-point pictures in \[0, 1\]"):
            metric(x, wrong)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(MissingDataError, match="expected weights of LPIPS"):
        Lpips(path)
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match="expected safetensors"):
        Lpips(path)
    good = weights("alexnet")
    for changes, message in (
        ({"lin2.weight": torch.zeros(1, 3, 1, 1)}, r"expected finite 'lin2\.weight' of float32 \(1, 384, 1, 1\)"),
        ({"features.3.bias": good["features.3.bias"] * torch.nan}, r"expected finite 'features\.3\.bias'"),
        ({"features.3.bias": good["features.3.bias"].half()}, r"got torch\.float16"),
        ({"lin0.weight": -good["lin0.weight"]}, r"expected weights >= 0 in 'lin0\.weight'"),
    ):
        save_file({**good, **changes}, path)
        with pytest.raises(InputError, match=message):
            Lpips(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"expected finite 'features\.0\.weight' .*, got none"):
        Lpips(path)
