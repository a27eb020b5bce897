"""The wire: mechanisms and codecs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from splitveil.contracts.values import FeatureSpec, GaussianChannel, NoiseSpec

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = ["Codec", "Mechanism"]


class Mechanism(nn.Module, ABC):
    """What happens at the wire, always; it ships with the edge.

    `forward` is pure and traceable and row i of the result never reads row j of z. All scales live here, the noise
    comes in as an argument. Only `SplitModel` calls a mechanism.

    Attributes:
        only_adds_noise: whether the mean of the Gaussian stage is z, up to a constant that is the same for all
            pictures: then what bounds z, such as a clip before, bounds that mean, and certificates rest on it.
        no_weight_decay: names of its own parameters that are no weights, such as the logarithm of a scale: decay would
            pull them to a value that nobody chose.
    """

    only_adds_noise: ClassVar[bool] = False
    no_weight_decay: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_spec(cls, spec: FeatureSpec, rng: Rng, **params: Any) -> Mechanism:
        """Build for features of this spec; override where shapes or initial values are needed."""
        return cls(**params)

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """The noise that `forward` needs, in its order; names become ONNX inputs."""
        return ()

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec of r: that of z unless overridden, without its range, since certificates rest on ranges."""
        return replace(z, range=None)

    @abstractmethod
    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """``(n, *z)`` and noises of ``(n, *shape)`` to ``(n, *r)``."""

    def gaussian_channel(self, z: Tensor) -> GaussianChannel | None:
        """The Gaussian stage of this mechanism at z, or None where it has none."""
        return None

    def unmasked(self) -> Mechanism | None:
        """This mechanism with nothing hidden, where a zero of r says that a value is, and what is not zero passed as
        it would without the mask; None where zeros say nothing of the kind.
        """
        return None

    def hidden_within(self, r: Tensor) -> Tensor | None:
        """The magnitude ``(n, 1, ...)`` that no value which a mask hides of releases ``(n, *r)`` exceeds; None: any."""
        return None

    def combine(self, r: Tensor) -> Tensor:
        """What m releases of one input amount to: ``(n, m, *r)`` to ``(n, *r)``; the mean unless overridden."""
        return r.mean(dim=1)


class Codec(ABC):
    """Bytes on the wire: framing and quantisation of r, inside `SplitModel.release`."""

    @abstractmethod
    def encode(self, r: Tensor) -> bytes:
        """``(n, *r)`` to bytes."""

    @abstractmethod
    def decode(self, data: bytes, spec: FeatureSpec) -> Tensor:
        """Bytes to ``(n, *r)``, float32; hostile bytes raise `InputError`."""

    @abstractmethod
    def roundtrip(self, r: Tensor) -> Tensor:
        """What the receiver gets, as a tensor; straight-through in the backward pass."""
