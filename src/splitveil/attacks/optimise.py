"""Regularised maximum likelihood: search for the picture whose release explains the one that was seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitveil.attacks.channel import KnownChannel, probes
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.priors import (
    FlatPrior,
    GaussianPrior,
    Prior,
    TotalVariation,
    all_pictures,
    centre_of,
    neighbour_scale,
)
from splitveil.attacks.search import Searching, SearchInverter
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import Attack, Inverter, View
from splitveil.errors import SpecError, UnknownNameError
from splitveil.registry import build
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["Optimise", "PriorName", "trusted_variance"]

PriorName = Literal["tv", "gaussian", "none"]

_STATISTICS = 256  # pictures whose noise-free releases say how large an error is small
_TRUST = 1e-2  # of the spread of a release: the error that a noise-free release is fitted to
_SCALE_WITHOUT_PICTURES = 0.05


@dataclass(frozen=True)
class Optimise(Attack):
    """Maximum a posteriori: ``min_x |f(x) - r|^2 / (2 v) + prior(x)``, by Adam, for each release.

    v is the variance of the noise, known from the mechanism; without noise it is a hundredth of the release's spread,
    squared. Under the prior ``gaussian``, from auxiliary pictures, this is the posterior mean wherever the head is
    linear; ``tv`` takes differences of neighbours to be Laplace, of the scale that auxiliary pictures show. Behind a
    mask that hides values at random, the misfit is over those that passed.

    Args:
        prior: ``tv``, ``gaussian`` or ``none``.
        prior_weight: factor of the prior's negative log density; 1 is Bayes' rule.
        steps: of each search.
        lr: first learning rate, of logits, or of principal coordinates in standard deviations.
        restarts: searches per release; that with the least objective counts.
        noise_draws: releases that the expectation over the noise is taken over; 0 takes the noise-free release, which
            is the expectation of additive symmetric noise.
        warm_start: None, or ``decoder`` to begin with the pictures of one.
        decoder: parameters of that decoder.

    Raises:
        SpecError: a value out of range.

    Reference:
        He, Zhang, Lee: Model Inversion Attacks Against Collaborative Inference, ACSAC 2019 (rMLE).
    """

    name: ClassVar[str] = "optimise"
    needs: ClassVar[frozenset[Grant]] = frozenset({"weights"})

    prior: PriorName = "gaussian"
    prior_weight: float = 1.0
    steps: int = 300
    lr: float = 0.1
    restarts: int = 1
    noise_draws: int = 0
    warm_start: str | None = None
    decoder: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prior not in get_args(PriorName):
            raise UnknownNameError("prior", str(self.prior), get_args(PriorName))
        if self.warm_start not in (None, "decoder"):
            raise UnknownNameError("warm start", str(self.warm_start), ("decoder",))
        if self.decoder and self.warm_start is None:
            raise SpecError("expected warm_start='decoder' beside parameters of a decoder, got none: say both")
        if min(self.steps, self.restarts) < 1 or self.noise_draws < 0:
            raise SpecError(f"expected steps, restarts >= 1 and noise_draws >= 0, got {self}")
        if not (0 < self.lr < math.inf and 0 <= self.prior_weight < math.inf):
            raise SpecError(f"expected lr > 0 and prior_weight >= 0, got {self}")

    @property
    def needs_auxiliary(self) -> bool:  # type: ignore[override]
        """Whether the prior, or the decoder that it starts from, is learned from pictures."""
        return self.prior == "gaussian" or self.warm_start is not None

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        channel = KnownChannel.of(held, rng.child("channel"))
        variance = trusted_variance(channel)
        begin = self._begin(held, rng)
        inverter = SearchInverter(
            self._expected(channel, rng),
            self._prior(held),
            variance,
            Searching(self.steps, self.lr, self.restarts),
            rng.child("search"),
            begin,
            channel.misses,
        )
        inverter.facts = {"prior": self.prior, "steps": self.steps, "restarts": self.restarts}
        return inverter

    def _prior(self, view: AttackerView) -> Prior:
        if self.prior == "gaussian":
            return GaussianPrior.fit(all_pictures(view), self.prior_weight)
        if self.prior == "none":
            return FlatPrior(centre_of(view))
        known = view.threat.auxiliary != "none"
        scale = neighbour_scale(all_pictures(view)) if known else _SCALE_WITHOUT_PICTURES
        return TotalVariation(centre_of(view), scale, self.prior_weight)

    def _expected(self, channel: KnownChannel, rng: Rng) -> KnownChannel:
        """The release that a picture is expected to have, under the same draws for all pictures and starts."""
        view = channel.view
        rows = range(self.noise_draws * view.threat.observations)
        draws = tuple(view.draw(rng.child("expectation", number)) for number in rows)
        return replace(channel, draws=draws) if draws and view.noise_specs else channel

    def _begin(self, view: AttackerView, rng: Rng) -> Callable[[Tensor], Tensor] | None:
        if self.warm_start is None:
            return None
        decoder: Decoder = build(Decoder, self.decoder, "the decoder of attack 'optimise'")
        return view.borrow(decoder, rng.child("warm start")).invert


def trusted_variance(channel: KnownChannel) -> Tensor:
    """The variance of the error that a release may be missed by: the noise's, or a floor where there is none."""
    view = channel.view
    with torch.no_grad():
        releases = channel(probes(view, _STATISTICS))
    floor = (_TRUST * releases.std()).square().clamp_min(torch.finfo(releases.dtype).tiny)
    return torch.maximum(channel.variance.to(releases), floor)
