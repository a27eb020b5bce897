"""Mechanisms one after another."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism, NoiseSpec
from splitveil.defenses.mechanisms.clip_ball import ClipBall
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import SpecError

__all__ = ["Chain"]


class Chain(Mechanism):
    """``r = M_k(... M_1(z))``; the noise of part i is named with the suffix ``_i``.

    Args:
        parts: at least one mechanism, first applied first.
    """

    def __init__(self, *parts: Mechanism) -> None:
        super().__init__()
        if not parts:
            raise SpecError("expected at least one mechanism in a chain, got none: use Identity()")
        self.parts = nn.ModuleList(parts)

    @property
    def mechanisms(self) -> list[Mechanism]:
        """The parts, first applied first."""
        return [cast(Mechanism, part) for part in self.parts]

    def noise_spec(self, z: FeatureSpec) -> tuple[NoiseSpec, ...]:
        """The noises of all parts, in order."""
        specs: list[NoiseSpec] = []
        for index, part in enumerate(self.mechanisms):
            specs += [replace(spec, name=f"{spec.name}_{index}") for spec in part.noise_spec(z)]
            z = part.output_spec(z)
        return tuple(specs)

    def output_spec(self, z: FeatureSpec) -> FeatureSpec:
        """The spec after the last part."""
        for part in self.mechanisms:
            z = part.output_spec(z)
        return z

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """Each part with its own share of the noises."""
        spec, rest = FeatureSpec.of(z.shape[1:]), noises
        for part in self.mechanisms:
            count = len(part.noise_spec(spec))
            z = part(z, rest[:count])
            spec, rest = part.output_spec(spec), rest[count:]
        return z

    def gaussian_channel(self, z: Tensor) -> GaussianChannel | None:
        """The first Gaussian stage, after the noise-free parts before it.

        What comes later is post-processing of that stage, which cannot add information about the input, so a bound
        for this stage holds for the release too. A chain that is noisy before any Gaussian stage has none. What the
        parts before it are clipped to bounds its mean where it only adds noise; elsewhere its own word counts.
        """
        spec = FeatureSpec.of(z.shape[1:])
        ball: float | None = None
        for part in self.mechanisms:
            channel = part.gaussian_channel(z)
            if channel is not None:
                if not part.only_adds_noise:
                    return channel
                return replace(channel, box=spec.range or channel.box, ball=ball or channel.ball)
            ball = part.radius if isinstance(part, ClipBall) else None
            if part.noise_spec(spec):
                return None
            z, spec = part(z, ()), part.output_spec(spec)
        return None

    def unmasked(self) -> Mechanism | None:
        """Without the masks at its end; those before a part that changes zeros cannot be seen in r."""
        parts, found = self.mechanisms, False
        for place in reversed(range(len(parts))):
            bare = parts[place].unmasked()
            if bare is None:
                break
            parts[place], found = bare, True
            if not isinstance(bare, Identity):
                break
        return Chain(*parts) if found else None

    def hidden_within(self, r: Tensor) -> Tensor | None:
        """As the last part says, unless another mask before it hides what is larger."""
        several = len(self.parts) > 1 and self.mechanisms[-2].unmasked() is not None
        return None if several else self.mechanisms[-1].hidden_within(r)

    def combine(self, r: Tensor) -> Tensor:
        """As the last part combines that draws noise or says how to; parts after it are taken as invertible."""
        return next(filter(_decides, reversed(self.mechanisms)), self.mechanisms[-1]).combine(r)


def _decides(part: Mechanism) -> bool:
    """Whether releases of one input differ by this part, or combine in a way of its own."""
    if isinstance(part, Chain):
        return any(map(_decides, part.mechanisms))
    kind = type(part)
    return kind.noise_spec is not Mechanism.noise_spec or kind.combine is not Mechanism.combine
