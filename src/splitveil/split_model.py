"""The split model: the one door through which training, attacks, export and serving meet a mechanism."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from splitveil.codecs import Float32Codec
from splitveil.contracts import Codec, FeatureSpec, GaussianChannel, Mechanism, NoiseSource, NoiseSpec, Trace
from splitveil.errors import ContractError, InputError
from splitveil.modes import device_of, evaluating
from splitveil.nets.parts import SplitParts
from splitveil.noise import to_device

__all__ = ["SplitModel"]


class SplitModel(nn.Module):
    """A network in the parts that stand on either side of the wire.

    ```
    x --[ head ]-- z --[ mechanism ]-- r == wire ==[ tail ]-- reply ==[ finish ]-- output
    ```

    Args:
        parts: head, tail, finish, the shape of a picture and, where known, the spec of z.
        mechanism: what happens at the wire.
        codec: how r is framed as bytes; float32 by default.

    Example:
        >>> from splitveil.defenses.mechanisms.gaussian import Gaussian
        >>> from splitveil.noise import SeededNoise
        >>> from splitveil.rng import Rng
        >>> parts = SplitParts(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(72, 10)), (1, 8, 8))
        >>> model = SplitModel(parts, Gaussian(noise_std=0.1))
        >>> model.release(torch.rand(5, 1, 8, 8), noise=SeededNoise(Rng(0))).shape
        torch.Size([5, 2, 6, 6])
    """

    def __init__(self, parts: SplitParts, mechanism: Mechanism, codec: Codec | None = None) -> None:
        super().__init__()
        self.head, self.mechanism, self.tail, self.finish = parts.head, mechanism, parts.tail, parts.finish
        self.input_shape = parts.input_shape
        self.codec: Codec = codec if codec is not None else Float32Codec()
        self.feature_spec = parts.feature if parts.feature is not None else self._probe()
        self.release_spec = mechanism.output_spec(self.feature_spec)

    def _probe(self) -> FeatureSpec:
        with evaluating(self.head), torch.no_grad():
            return FeatureSpec.of(self.head(torch.zeros(2, *self.input_shape, device=device_of(self.head))).shape[1:])

    @property
    def noise_specs(self) -> tuple[NoiseSpec, ...]:
        """The noise of one release."""
        return self.mechanism.noise_spec(self.feature_spec)

    @property
    def zero(self) -> Tensor:
        """``(*r)``: what arrives of a release of zeros; a codec whose levels miss zero sends one beside it."""
        with torch.no_grad():
            return self.codec.roundtrip(torch.zeros(1, *self.release_spec.shape, device=device_of(self)))[0]

    def draw(self, source: NoiseSource, n: int, device: torch.device) -> tuple[Tensor, ...]:
        """The noise of n releases from a source."""
        return tuple(to_device(source.draw(spec, n), device) for spec in self.noise_specs)

    def forward(self, x: Tensor, noises: tuple[Tensor, ...]) -> Trace:
        """One pass for training: ``x (n, c, h, w)`` in [0, 1] and the noises of `noise_specs`."""
        z = self.head(x)
        r = self._door(z, noises)
        reply = self.tail(r)
        return Trace(x, z, r, reply, self.finish(reply), self.mechanism.gaussian_channel(z))

    def features(self, x: Tensor) -> tuple[Tensor, GaussianChannel | None]:
        """z and the mechanism's Gaussian stage at z, before any noise; they stay on the edge."""
        z = self.head(x)
        return z, self.channel(z)

    def channel(self, z: Tensor) -> GaussianChannel | None:
        """The mechanism's Gaussian stage at z, None where it has none."""
        return self.mechanism.gaussian_channel(z)

    def _door(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        specs = self.noise_specs
        if len(noises) != len(specs):
            names = ", ".join(spec.name for spec in specs) or "none"
            raise ContractError(f"expected {len(specs)} noises ({names}), got {len(noises)}: use SplitModel.draw")
        if not torch.compiler.is_compiling():
            for spec, noise in zip(specs, noises, strict=True):
                if tuple(noise.shape) != (len(z), *spec.shape):
                    raise ContractError(
                        f"expected noise '{spec.name}' of shape {(len(z), *spec.shape)}, got {tuple(noise.shape)}: "
                        "use SplitModel.draw"
                    )
        return self.codec.roundtrip(self.mechanism(z, noises))

    def simulate(self, x: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """The release as a differentiable function of x, in the current mode: what a white-box attacker computes."""
        return self._door(self.head(x), noises)

    def simulate_all(self, x: Tensor, draws: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
        """`simulate` under several draws of the noise; the head computes its features once."""
        z = self.head(x)
        return [self._door(z, noises) for noises in draws]

    def release(self, x: Tensor, *, noise: NoiseSource) -> Tensor:
        """The only tensor that a cloud or an attacker may receive.

        Args:
            x: ``(n, c, h, w)``, float32 in [0, 1].
            noise: seeded for experiments, `EntropyNoise` for serving.

        Returns:
            ``(n, *r)``, without gradient, computed in evaluation mode.

        Raises:
            InputError: x has another shape.
        """
        return self.release_each(x, [noise])[0]

    def release_each(self, x: Tensor, noises: Sequence[NoiseSource]) -> list[Tensor]:
        """Several releases of the same pictures, each as `release` makes it; the head computes its features once."""
        self.check_input(x)
        with evaluating(self), torch.no_grad():
            return self.simulate_all(x, (self.draw(noise, len(x), x.device) for noise in noises))

    def check_input(self, x: Tensor) -> None:
        """Raise `InputError` unless x is ``(n, c, h, w)`` of this model, in floating point."""
        if not x.is_floating_point():
            raise InputError(f"expected x as floating point in [0, 1], got {x.dtype}: pass x.float() / 255 for bytes")
        if x.ndim != len(self.input_shape) + 1 or tuple(x.shape[1:]) != self.input_shape:
            got = tuple(x.shape)
            cure = ": the batch axis is missing, pass x[None]" if got == self.input_shape else ""
            raise InputError(f"expected x of shape (n, {', '.join(map(str, self.input_shape))}), got {got}{cure}")

    def reply(self, r: Tensor) -> Tensor:
        """The cloud's part."""
        return cast(Tensor, self.tail(r))

    def predict(self, r: Tensor) -> Tensor:
        """From a release to the output, without gradient, in evaluation mode: the cloud's part, then the edge's."""
        self.release_spec.check(r, "r")
        with evaluating(self), torch.no_grad():
            return cast(Tensor, self.finish(self.reply(r)))

    def with_mechanism(self, mechanism: Mechanism, codec: Codec | None = None) -> SplitModel:
        """The same parts behind another mechanism, and another codec where one is given."""
        parts = SplitParts(self.head, self.tail, self.input_shape, self.finish, self.feature_spec)
        return SplitModel(parts, mechanism, codec or self.codec)
