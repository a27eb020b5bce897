"""Backwards: from what must not happen to the noise that a mechanism needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from scipy.optimize import brentq
from torch import Tensor

from splitveil.bounds import blocks, undithered
from splitveil.bounds.entropy import EntropyProfile
from splitveil.certificates.channel import Channel, Features
from splitveil.certificates.information import POPULATION, FittedBound, information_certificates, shared_confidence
from splitveil.errors import SpecError

__all__ = ["Needed", "information_for_error", "noise_for_information", "noise_of_one_size"]

_FINEST, _COARSEST = 1e-4, 1e4  # noise over the width of the box
_TOLERANCE = 1e-4  # relative, of the noise


@dataclass(frozen=True, slots=True)
class Needed:
    """The noise that brings one bound on the information down to a target.

    Args:
        method: which bound.
        noise_std: s, feature units; None where no noise does.
        information_nats: what the bound says then.
        holds_for: whether any gallery, or the population only.
        keeps: whether it goes on holding while the model is trained on.
    """

    method: str
    noise_std: float | None
    information_nats: float
    holds_for: str
    keeps: bool


def information_for_error(mse: float, profile: EntropyProfile) -> float:
    """The information under which no attacker errs less than this, as far as the entropy profile is right.

    Args:
        mse: per pixel value, above 0.
        profile: of pictures.

    Raises:
        SpecError: not even an attacker who sees nothing errs so much.
    """
    best = undithered(blocks(profile.nats, profile.sizes, 0.0))
    if not 0 < mse <= best:
        psnr_db = -10 * math.log10(best) if best else math.inf
        raise SpecError(
            f"expected an error that some attacker may be held to, above 0 and at most {best:.4g} (PSNR "
            f"{psnr_db:.1f} dB), what an attacker without any release is sure to make; got {mse:.4g}"
        )
    reach = 1.0
    while undithered(blocks(profile.nats, profile.sizes, reach)) >= mse:
        reach *= 2
    return float(brentq(lambda nats: undithered(blocks(profile.nats, profile.sizes, nats)) - mse, 0.0, reach))


def noise_of_one_size(channel: Channel | None) -> tuple[Channel, Tensor, float]:
    """A channel, its noise ``(q,)``, and the width of the box before it, where it has both.

    Raises:
        SpecError: there is no noise, or it depends on the picture, or nothing is clipped.
    """
    if channel is None or channel.std is None or channel.width is None:
        raise SpecError(
            "expected features that are clipped before noise of one size, got others: no amount of noise is known to "
            "bound what they tell; use a defense with a clip, such as gaussian or cem"
        )
    return channel, channel.std, channel.width


def noise_for_information(
    channel: Channel | None,
    target_nats: float,
    bounds: Sequence[FittedBound] = (),
    held_out: Features | None = None,
    *,
    observations: int = 1,
) -> list[Needed]:
    """The isotropic noise under which each bound says at most so much.

    ``capacity`` does not depend on the weights, so it goes on holding while the model is trained at that noise;
    ``mixture`` and ``gaussian_channel`` are taken on the features as they are.

    Args:
        channel: clipped, with noise that does not depend on the picture.
        target_nats: above 0.
        bounds: of `fit_bounds`.
        held_out: features that these are averaged over.
        observations: n.

    Raises:
        SpecError: a target of 0, or a channel without a box.
    """
    if not target_nats > 0:
        raise SpecError(f"expected a target above 0 nats, got {target_nats}: a release without information is none")
    plain, std, width = noise_of_one_size(channel)

    def bound(name: str, noise_std: float) -> float:
        noisy = replace(plain, std=torch.full_like(std, noise_std))
        wanted = [item for item in bounds if item.name == name]
        found = information_certificates(
            noisy, 1, wanted, held_out, observations=observations, confidence=shared_confidence(len(bounds))
        )
        return next(item.value for item in found if item.name == name)

    names = ("capacity", *(item.name for item in bounds if held_out is not None))
    return [_needed(name, width, target_nats, partial(bound, name)) for name in names]


def _needed(name: str, width: float, target: float, bound: Callable[[float], float]) -> Needed:
    holds_for = "pictures of the data's population" if name in POPULATION else "any pictures"
    low, high = _FINEST * width, _COARSEST * width
    if bound(high) > target:
        return Needed(name, None, bound(high), holds_for, name not in POPULATION)
    while high / low > 1 + _TOLERANCE:  # bounds fall with noise; one that is fitted need not fall smoothly
        middle = (low * high) ** 0.5
        low, high = (low, middle) if bound(middle) <= target else (middle, high)
    return Needed(name, high, bound(high), holds_for, name not in POPULATION)
