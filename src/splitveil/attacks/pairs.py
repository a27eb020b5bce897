"""A file of pictures and their releases as a subject of an audit: an encoder that nobody can ask any more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from splitveil.attacks.metadata import RELEASE_KEY, parse_release
from splitveil.contracts import FeatureSpec, NoiseSource, check_finite
from splitveil.data.paired import PairedPictures
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, MissingDataError, ThreatModelError
from splitveil.files import write_with
from splitveil.threats import Grant

__all__ = ["PairsSubject", "save_pairs"]

_CURE = "write the file again with save_pairs"
_DTYPES = {"x": ("F32", "U8"), "r": ("F32", "F16", "BF16"), "labels": ("I64", "I32")}
_MOST_VALUES = 2**34
"""Of one tensor: 64 GiB in float32, which no audit of pairs needs and few machines hold."""


class PairsSubject:
    """Stored pairs (picture, release): the attacker holds some of them, and may ask for no more.

    The file is safetensors with the tensors

    ```
    x        (n, c, h, w)   float32 in [0, 1], or uint8        kept as bytes, so floats are rounded to 1/255
    r        (n, *r)        float32, float16 or bfloat16       one release per picture, finite
    labels   (n,)           int64 or int32, 0 to n - 1         may be left out
    ```
    and, where it is needed to read r as tokens, the JSON of a `FeatureSpec` in the metadata under `RELEASE_KEY`.

    An audit splits ``pictures`` in two: the attacker's, which its view hands out, and those it is scored on.

    Args:
        path: of the file.
        device: where pictures and releases are kept.

    Raises:
        MissingDataError: there is no such file.
        InputError: it is not a file as above; names, types and sizes are checked before anything is read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pairs.safetensors"
        >>> save_pairs(path, torch.rand(10, 1, 8, 8), torch.rand(10, 16))
        >>> subject = PairsSubject(path)
        >>> subject.release_spec.shape, sorted(subject.offers), len(subject.pictures)
        ((16,), ['pairs'], 10)
    """

    def __init__(self, path: Path | str, device: torch.device | str = "cpu") -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingDataError(f"expected a file of pairs at '{self.path}', got none: check the path")
        try:
            with safe_open(self.path, framework="pt", device="cpu") as file:
                names = set(file.keys())
                shapes = _check_header({name: file.get_slice(name) for name in _DTYPES if name in names}, self.path)
                text = (file.metadata() or {}).get(RELEASE_KEY)
                self.release_spec: FeatureSpec = parse_release(text, shapes["r"][1:], str(self.path), _CURE)
                x, r = file.get_tensor("x"), file.get_tensor("r")
                labels = file.get_tensor("labels").to(torch.int64) if "labels" in names else None
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(f"expected safetensors in '{self.path}', got {error}: {_CURE}") from error
        self.input_shape: tuple[int, ...] = shapes["x"][1:]
        self.offers: frozenset[Grant] = frozenset({"pairs"} if labels is None else {"pairs", "labels"})
        table = ImageTable(self._bytes(x), self._labels(labels, len(x)))
        check_finite(r, f"the releases of '{self.path}'", _CURE)
        self.pictures = PairedPictures(table, r.to(torch.float32), device)

    def _bytes(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            return x
        low, high = (float(value) for value in torch.aminmax(x))
        if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails it
            raise InputError(f"expected x in [0, 1] in '{self.path}', got values from {low:g} to {high:g}: {_CURE}")
        return (x * 255).round().to(torch.uint8)

    def _labels(self, labels: Tensor | None, n: int) -> Tensor:
        if labels is None:
            return torch.zeros(n, dtype=torch.int64)
        low, high = (int(value) for value in torch.aminmax(labels))
        if low < 0 or high >= n:  # attacks make room for as many classes as the largest label says
            raise InputError(f"expected labels from 0 to {n - 1} in '{self.path}', got {low} to {high}: renumber them")
        return labels

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """Never answers.

        Raises:
            ThreatModelError: always.
        """
        raise ThreatModelError(
            f"expected an attack on the stored pairs of '{self.path}', got a query: a file answers none; "
            "choose an attack that needs pairs only, and PairsSubject.pictures as auxiliary pictures"
        )

    def combine(self, r: Tensor) -> Tensor:
        """The mean: nothing is known about the mechanism."""
        return r.mean(dim=1)


def save_pairs(
    path: Path | str, x: Tensor, r: Tensor, labels: Tensor | None = None, *, release_spec: FeatureSpec | None = None
) -> None:
    """Write pairs as `PairsSubject` reads them, whole or not at all.

    Args:
        path: of the file.
        x: ``(n, c, h, w)``, float32 in [0, 1] or uint8.
        r: ``(n, *r)``, float32, float16 or bfloat16.
        labels: ``(n,)``, int64.
        release_spec: of r, where its shape alone does not say how to read it.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {"x": x, "r": r} | ({} if labels is None else {"labels": labels})
    # safetensors refuses tensors that share memory, as x and x.flatten(1) do
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {} if release_spec is None else {RELEASE_KEY: json.dumps(release_spec.to_json())}
    write_with(Path(path), lambda temporary: save_file(plain, temporary, metadata=metadata))


def _check_header(slices: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors, from the header alone."""
    missing = [name for name in ("x", "r") if name not in slices]
    if missing:
        raise InputError(f"expected tensors x and r in '{path}', got no {' and no '.join(missing)}: {_CURE}")
    shapes: dict[str, tuple[int, ...]] = {name: tuple(part.get_shape()) for name, part in slices.items()}
    n = shapes["x"][0] if shapes["x"] else 0
    fitting = {
        "x": len(shapes["x"]) == 4,
        "r": 2 <= len(shapes["r"]) <= 4 and shapes["r"][0] == n,
        "labels": shapes.get("labels", (n,)) == (n,),
    }
    for name, shape in shapes.items():
        if not fitting[name] or min(shape, default=0) < 1 or math.prod(shape) > _MOST_VALUES:
            raise InputError(f"expected x (n, c, h, w), r (n, *r) and labels (n,) in '{path}', got {shapes}: {_CURE}")
        if slices[name].get_dtype() not in _DTYPES[name]:
            raise InputError(
                f"expected {name} of type {' or '.join(_DTYPES[name])} in '{path}', got {slices[name].get_dtype()}: "
                f"{_CURE}"
            )
    return shapes
