"""What can be audited: a split model, or any callable that turns pictures into releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from splitveil.combining import around
from splitveil.contracts import FeatureSpec, NoiseSource, Subject
from splitveil.errors import InputError
from splitveil.modes import evaluating
from splitveil.nets.fresh import fresh_copy
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import Grant

__all__ = ["BLACK_BOX_OFFERS", "CallableSubject", "ModelSubject", "zero_of"]

BLACK_BOX_OFFERS: frozenset[Grant] = frozenset({"query", "pairs", "labels"})
"""What an encoder without its weights and without its cloud can offer."""


class ModelSubject:
    """A split model of ours: offers everything that a threat model can grant.

    Args:
        model: the whole model; `finish` stays with the edge and is never offered.
    """

    offers: frozenset[Grant] = frozenset({"weights", "architecture", "query", "pairs", "tail", "labels"})

    def __init__(self, model: SplitModel) -> None:
        self.model = model
        self.input_shape: tuple[int, ...] = tuple(model.input_shape)
        self.release_spec: FeatureSpec = model.release_spec

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """``(n, c, h, w)`` in [0, 1] to ``(n, *r)``, through the one door."""
        return self.model.release(x, noise=noise)

    def release_each(self, x: Tensor, noises: Sequence[NoiseSource]) -> list[Tensor]:
        """Several releases of the same pictures."""
        return self.model.release_each(x, noises)

    def combine(self, r: Tensor) -> Tensor:
        """``(n, m, *r)`` to ``(n, *r)``, as the mechanism says, which knows zeros as they were before the codec."""
        return around(self.zero.to(r), self.model.mechanism.combine)(r)

    @property
    def zero(self) -> Tensor:
        """``(*r)``: what a zero arrives as."""
        return self.model.zero

    def tail(self, r: Tensor) -> Tensor:
        """The cloud's part in evaluation mode, with gradient: ``(n, *r)`` to the reply."""
        with evaluating(self.model):
            return self.model.reply(r)

    def architecture(self, rng: Rng) -> nn.Module:
        """A head of the same architecture with fresh weights: what a shadow model starts from."""
        with rng.scoped():
            return fresh_copy(self.model.head)


def zero_of(subject: Subject) -> Tensor:
    """``(*r)``: what a zero of the release arrives as, where the subject tells its codec; zero where it does not."""
    known: Tensor | None = getattr(subject, "zero", None)
    return torch.zeros(subject.release_spec.shape) if known is None else known


class CallableSubject:
    """A black box: a function from pictures to releases, with randomness of its own.

    Args:
        release: ``(n, c, h, w)`` float32 in [0, 1] to ``(n, *r)``.
        input_shape: ``(c, h, w)``.
        release_spec: of r; None to find it by a call.

    Raises:
        InputError: the function returns something else than one release per picture.

    Example:
        >>> CallableSubject(lambda x: x.flatten(1), (1, 8, 8)).release_spec.shape
        (64,)
    """

    offers: frozenset[Grant] = BLACK_BOX_OFFERS

    def __init__(
        self,
        release: Callable[[Tensor], Tensor],
        input_shape: Sequence[int],
        release_spec: FeatureSpec | None = None,
    ) -> None:
        self._release = release
        self.input_shape: tuple[int, ...] = tuple(input_shape)
        self.release_spec: FeatureSpec = release_spec if release_spec is not None else self._probe()

    def _probe(self) -> FeatureSpec:
        return FeatureSpec.of(self._call(torch.zeros(2, *self.input_shape)).shape[1:])

    def _call(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            r = self._release(x)
        if not isinstance(r, Tensor) or not r.is_floating_point() or r.ndim < 2 or len(r) != len(x):
            got = f"{tuple(r.shape)} of {r.dtype}" if isinstance(r, Tensor) else type(r).__name__
            raise InputError(
                f"expected a float tensor with {len(x)} rows from the callable, got {got}: "
                "return one release per picture"
            )
        return r.detach().to(torch.float32)

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """``(n, c, h, w)`` to ``(n, *r)``, float32; the callable draws noise of its own, so `noise` is not used."""
        r = self._call(x)
        self.release_spec.check(r, "r")
        return r

    def combine(self, r: Tensor) -> Tensor:
        """The mean: nothing is known about the mechanism."""
        return r.mean(dim=1)
