"""Sparse coding of the features by locally competing atoms (SCA)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec, Mechanism, positive
from splitveil.errors import SpecError
from splitveil.rng import Rng

__all__ = ["SparseCoding"]

_POWERS = 8  # iterations that find the norm of D'D from below
_MARGIN = 1.25  # what they may fall short of it; up to twice 1 / |D'D| the dynamics still settle


class SparseCoding(Mechanism):
    """``r = D a(z)``: a few atoms of a dictionary stand for the features, and what they cannot draw is gone.

    ```
    u <- u + rate (D' z - u - (D'D - I) a),   a = soft_threshold(u),   `iterations` times from u = 0;   r = D a
    ```

    ``(D'D - I) a`` is the lateral inhibition: an atom that is active suppresses those that look like it. D is a bank of
    3 x 3 filters for maps, a matrix for tokens and vectors, its atoms of length 1; it trains with the network, through
    all iterations. The dynamics take no larger step than 1 / |D'D|, beyond which they would swing, so atoms that come
    to look alike in training compete slower, not without end.

    Args:
        spec: of z.
        atoms: of the dictionary; None for as many as z has channels.
        threshold: of an activation, feature units, > 0.
        iterations: at least 1; with one there is no inhibition, since all atoms begin at rest.
        rate: of the dynamics, 0 < rate <= 1, at most.

    Reference:
        Rozell et al.: Sparse Coding via Thresholding and Local Competition, Neural Computation 2008, eq. 5; for
        privacy: Teti et al.: Sparse Coding Architectures, arXiv 2403.14772.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        atoms: int | None = None,
        threshold: float = 0.05,
        iterations: int = 20,
        rate: float = 0.1,
    ) -> None:
        super().__init__()
        channels = spec.shape[spec.channel_axis]
        atoms = channels if atoms is None else atoms
        if min(atoms, iterations) < 1 or not 0 < rate <= 1:
            raise SpecError(f"expected atoms, iterations >= 1 and 0 < rate <= 1, got {atoms}, {iterations} and {rate}")
        self.threshold, self.iterations, self.rate = positive(threshold, "threshold"), iterations, float(rate)
        self._kind, self._axis = spec.kind, spec.channel_axis + 1
        window = (3, 3) if spec.kind == "map" else ()
        self.dictionary = nn.Parameter(torch.randn(atoms, channels, *window))

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> SparseCoding:
        """For features of this spec."""
        with rng.scoped():
            return cls(spec, **params)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of z; what atoms draw may leave its range."""
        return replace(z, range=None)

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` as its atoms draw it."""
        atoms = self._atoms()
        return self._draw(self._code(z, atoms), atoms)

    def code(self, z: Tensor) -> Tensor:
        """Activations of the atoms: ``(n, atoms, h, w)`` of a map, ``(n, t, atoms)`` of tokens, ``(n, atoms)``."""
        return self._code(z, self._atoms())

    def _code(self, z: Tensor, atoms: Tensor) -> Tensor:
        drive = self._look(z, atoms)
        rate = self._stable_rate(drive[:1].detach(), atoms.detach())
        u = torch.zeros_like(drive)
        for _ in range(self.iterations):
            a = functional.softshrink(u, self.threshold)
            inhibition = self._look(self._draw(a, atoms), atoms) - a
            u = u + rate * (drive - u - inhibition)
        return functional.softshrink(u, self.threshold)

    def _stable_rate(self, like: Tensor, atoms: Tensor) -> Tensor:
        """``min(rate, 1 / |D'D|)``, the norm by power iteration from a row that no symmetry makes blind."""
        v = (1.0 + torch.arange(like.numel(), device=like.device, dtype=like.dtype).cos()).reshape(like.shape)
        for _ in range(_POWERS):
            v = v / v.square().sum().sqrt()
            v = self._look(self._draw(v, atoms), atoms)
        norm = _MARGIN * v.square().sum().sqrt()
        return torch.clamp(1.0 / norm, max=self.rate)

    def _atoms(self) -> Tensor:
        flat = self.dictionary.flatten(1)
        return functional.normalize(flat, dim=1).reshape(self.dictionary.shape)

    def _look(self, z: Tensor, atoms: Tensor) -> Tensor:
        """``D' z``."""
        return functional.conv2d(z, atoms, padding=1) if self._kind == "map" else z @ atoms.T

    def _draw(self, a: Tensor, atoms: Tensor) -> Tensor:
        """``D a``."""
        return functional.conv_transpose2d(a, atoms, padding=1) if self._kind == "map" else a @ atoms
