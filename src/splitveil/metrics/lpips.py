"""LPIPS, a learned perceptual distance, from weights that the user brings as a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from splitveil.contracts import Metric
from splitveil.errors import InputError, MissingDataError

__all__ = ["Lpips"]

# positions in torchvision's `features` behind whose ReLU the distance looks, their channels, and the smallest side
_TRUNKS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "alexnet": ((1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 31),
    "vgg16": ((3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of ImageNet's pictures in [-1, 1], as the heads were trained with."""
_TINY = 1e-10
_CURE = "convert the trunk of torchvision and the linear heads of LPIPS 0.1 with these names"
_CHUNK = 64


class Lpips(Metric):
    """The distance of two pictures in the features of a network that was trained to see; a larger one is safer.

    ``d(a, b) = sum_l mean over pixels of sum_c w_lc (u_lc(a) - u_lc(b))^2``, where u_l is the output of the l-th tapped
    ReLU, divided by its length over channels at each pixel.

    The file holds float32 tensors under these names, and tells by their sizes which trunk it is:

    ```
    features.{i}.weight, features.{i}.bias    convolutions of torchvision's alexnet (i = 0 3 6 8 10)
                                              or vgg16 (i = 0 2 5 7 10 12 14 17 19 21 24 26 28)
    lin{l}.weight   (1, channels, 1, 1)       w_l >= 0, for l = 0 to 4: the heads of LPIPS, version 0.1
    ```
    No weights come with this package and none are fetched. Grey pictures are repeated to three channels. Pictures need
    sides of at least 31 pixels for alexnet, 16 for vgg16.

    Args:
        path: of the file.

    Raises:
        MissingDataError: there is no such file.
        InputError: it holds other tensors.

    Reference:
        Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features, CVPR 2018, eq. 1.
    """

    name: ClassVar[str] = "lpips"
    unit: ClassVar[str] = ""
    safer: ClassVar[Literal["higher", "lower"]] = "higher"

    def __init__(self, path: Path | str) -> None:
        tensors = _read(Path(path))
        first = tensors.get("features.0.weight")
        self.trunk = "alexnet" if first is not None and tuple(first.shape[2:]) == (11, 11) else "vgg16"
        taps, channels, self._smallest = _TRUNKS[self.trunk]
        self._taps = frozenset(taps)
        self._features = _build(self.trunk, taps[-1])
        expected = {f"features.{name}": tuple(value.shape) for name, value in self._features.state_dict().items()}
        expected |= {f"lin{level}.weight": (1, size, 1, 1) for level, size in enumerate(channels)}
        _check(tensors, expected, Path(path))
        weights = {name.removeprefix("features."): value for name, value in tensors.items() if name in expected}
        self._heads = [weights.pop(f"lin{level}.weight") for level in range(len(channels))]
        self._features.load_state_dict(weights, assign=True)
        self._features.requires_grad_(False).eval()

    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``, at least 0; differentiable in both.

        Raises:
            InputError: shapes differ, other than 1 or 3 channels, sides too small, or values outside [0, 1].
        """
        for pictures in (reconstruction, original):
            self._check(pictures, tuple(original.shape))
        pairs = zip(torch.split(reconstruction, _CHUNK), torch.split(original, _CHUNK), strict=True)
        return torch.cat([self._distance(a, b) for a, b in pairs])

    def _check(self, pictures: Tensor, shape: tuple[int, ...]) -> None:
        if pictures.ndim != 4 or tuple(pictures.shape) != shape or pictures.shape[1] not in (1, 3) or not len(pictures):
            raise InputError(
                f"expected pictures (n, c, h, w) of 1 or 3 channels and their originals, got {tuple(pictures.shape)} "
                f"and {shape}: compare each picture with its own original"
            )
        if min(shape[2:]) < self._smallest:
            raise InputError(
                f"expected sides of at least {self._smallest} pixels for {self.trunk}, got {shape[2:]}: enlarge both"
            )
        low, high = (float(value) for value in torch.aminmax(pictures.detach()))
        if not (pictures.is_floating_point() and low >= 0.0 and high <= 1.0):  # written so that NaN fails it
            raise InputError(
                f"expected floating-point pictures in [0, 1], got {low:g} to {high:g}: scale or clamp them"
            )

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        self._features.to(a.device)
        total = a.new_zeros(len(a), dtype=torch.float32)
        for level, (left, right) in enumerate(zip(self._units(a), self._units(b), strict=True)):
            weighted = (left - right).square() * self._heads[level].to(a.device)
            total = total + weighted.sum(1).flatten(1).mean(1)
        return total

    def _units(self, x: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(values, device=x.device).reshape(3, 1, 1) for values in (_SHIFT, _SCALE))
        value = (2 * x.float().expand(-1, 3, -1, -1) - 1 - shift) / scale
        units = []
        for place, layer in enumerate(self._features):
            value = layer(value)
            if place in self._taps:
                # clamped before the root, whose slope at 0 is infinite
                units.append(value / value.square().sum(1, keepdim=True).clamp_min(_TINY**2).sqrt())
        return units


def _build(trunk: str, last: int) -> nn.Sequential:
    from torchvision import models

    with torch.device("meta"):  # the file brings the weights, so none are drawn
        network: Any = getattr(models, trunk)(weights=None)
    layers = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in network.features[: last + 1]]
    return nn.Sequential(*layers)  # with a ReLU that does not overwrite what was tapped before it


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingDataError(f"expected weights of LPIPS at '{path}', got none: check the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: cast(Tensor, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"expected safetensors in '{path}', got {error}: {_CURE}") from error


def _check(tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    for name, shape in expected.items():
        got = tensors.get(name)
        if got is None or tuple(got.shape) != shape or got.dtype != torch.float32 or not bool(got.isfinite().all()):
            found = "none" if got is None else f"{got.dtype} {tuple(got.shape)}"
            raise InputError(f"expected finite '{name}' of float32 {shape} in '{path}', got {found}: {_CURE}")
        if name.startswith("lin") and bool((got < 0).any()):
            raise InputError(f"expected weights >= 0 in '{name}' of '{path}', got some below: {_CURE}")
