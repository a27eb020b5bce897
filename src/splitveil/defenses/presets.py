"""Named pairs of a mechanism and penalties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from splitveil.contracts import interval, positive
from splitveil.defenses.base import Defense, MechanismPart, PenaltyPart
from splitveil.defenses.budget import within_budget
from splitveil.defenses.penalties.conditional_entropy import Balance, Surrogate
from splitveil.errors import SpecError, UnknownNameError
from splitveil.mixtures import Covariance
from splitveil.schedules import Constant, LearningRateCoupled, Schedule, WarmUp

__all__ = ["cem", "clip_part", "clipped_gaussian", "conditional_entropy", "gaussian", "none"]

_PAPER = "arXiv 2503.00383 (CVPR 2025)"
_SCHEDULES: dict[str, type[WarmUp] | type[LearningRateCoupled] | type[Constant]] = {
    "warm_up": WarmUp,
    "lr_coupled": LearningRateCoupled,
    "constant": Constant,
}

ScheduleName = Literal["warm_up", "lr_coupled", "constant"]


def none() -> Defense:
    """No defense: the features are released as they are.

    Example:
        >>> none().mechanisms
        ()
    """
    return Defense("none", {})


def gaussian(
    noise_std: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
    *,
    radius: float | None = None,
    capacity_nats: float | None = None,
) -> Defense:
    """Clip and add Gaussian noise: ``r = clip(z, low, high) + s n``, or ``r = z min(1, C / |z|) + s n``.

    Args:
        noise_std: s, feature units, 0.1 by default; the features of the built-in nets lie in (0, 1).
        low: lower edge of the box.
        high: upper edge of the box.
        radius: C: clips to an l2 ball in place of the box, feature units.
        capacity_nats: in place of `noise_std`: the most that a release can tell of any picture, see
            `splitveil.bounds.capacity_box`; the noise follows from it and from the size of the features.

    Example:
        >>> [part.name for part in gaussian(noise_std=0.1, radius=4.0).mechanisms]
        ['clip_ball', 'gaussian']
    """
    if capacity_nats is not None:
        if radius is not None:
            raise SpecError("expected radius or capacity_nats, got both: capacity_nats is of features in a box")
        if noise_std is not None:
            raise SpecError("expected noise_std or capacity_nats, got both: the one decides the other")
        held = {"capacity_nats": positive(capacity_nats, "capacity_nats")}
        box = clip_part(low, high, None)
        return Defense("gaussian", {**held, **box.params}, (box, MechanismPart("gaussian", held)))
    std = positive(0.1 if noise_std is None else noise_std, "noise_std")
    parts = clipped_gaussian(std, low, high, radius)
    return Defense("gaussian", {"noise_std": std, **parts[0].params}, parts)


def conditional_entropy(
    weight: float = 0.5,
    *,
    noise_std: float | None = None,
    surrogate: Surrogate = "bound",
    covariance: Covariance = "diagonal",
    clusters: int = 5,
    schedule: ScheduleName = "warm_up",
    rank: int = 8,
    balance: Balance = "pictures",
    projection: int | None = None,
    budget_points: float | None = None,
) -> Defense:
    """Conditional entropy maximisation alone, to be added to a defense whose noise it reads.

    Args:
        weight: of the penalty, which counts nats per feature dimension with ``bound``, nats per direction with
            ``pixels``; lambda of the paper for ``thresholded_trace``.
        noise_std: adds a clip and Gaussian noise for hosts that have none.
        surrogate: see `ConditionalEntropy`.
        covariance: see `ConditionalEntropy`.
        clusters: per class.
        schedule: ``warm_up``, ``lr_coupled`` (the paper's) or ``constant``.
        rank: see `ConditionalEntropy`, as `balance` and `projection`.
        balance: what counts the same.
        projection: dimensions to judge in.
        budget_points: percentage points of validation accuracy that the penalty may cost; its weight, from `weight` on,
            is then pushed as far as that allows, see `within_budget`.
    """
    params: dict[str, Any] = {
        "weight": weight,
        "surrogate": surrogate,
        "covariance": covariance,
        "clusters": clusters,
        "schedule": schedule,
    }
    more = _beyond_defaults(rank=rank, balance=balance, projection=projection)
    params.update(more)
    mechanisms: tuple[MechanismPart, ...] = ()
    if noise_std is not None:
        params["noise_std"] = positive(noise_std, "noise_std")
        mechanisms = clipped_gaussian(noise_std, 0.0, 1.0)
    defense = Defense(
        "conditional_entropy",
        params,
        mechanisms,
        (_penalty(weight, schedule, surrogate, covariance, clusters, more),),
        reference=_PAPER,
    )
    if budget_points is None:
        return defense
    if schedule != "warm_up":
        raise SpecError(
            f"expected no schedule beside budget_points, got '{schedule}': the budget decides the weight; leave out one"
        )
    return within_budget(defense, budget_points, weight=weight)


def cem(
    noise_std: float = 0.1,
    weight: float = 0.5,
    *,
    surrogate: Surrogate = "bound",
    covariance: Covariance = "diagonal",
    clusters: int = 5,
    schedule: ScheduleName = "warm_up",
    rank: int = 8,
    balance: Balance = "pictures",
    projection: int | None = None,
    budget_points: float | None = None,
) -> Defense:
    """`gaussian` trained with `conditional_entropy`: the mechanism is the same, only the weights differ.

    Example:
        >>> cem(noise_std=0.1).mechanisms == gaussian(noise_std=0.1).mechanisms
        True
    """
    with_noise = conditional_entropy(
        weight,
        noise_std=positive(noise_std, "noise_std"),
        surrogate=surrogate,
        covariance=covariance,
        clusters=clusters,
        schedule=schedule,
        rank=rank,
        balance=balance,
        projection=projection,
        budget_points=budget_points,
    )
    return replace(with_noise, name="cem")


def clip_part(low: float, high: float, radius: float | None) -> MechanismPart:
    """A clip to a box, or to an l2 ball where there is a radius.

    Raises:
        SpecError: the box has no finite edges in order, or there is a radius beside another box than that of 0 and 1.
    """
    if radius is None:
        interval(low, high, "the clip")
        return MechanismPart("clip", {"low": low, "high": high})
    if (low, high) != (0.0, 1.0):
        raise SpecError(
            f"expected low and high or radius, got {low:g}, {high:g} and {radius:g}: clip to the one or other"
        )
    return MechanismPart("clip_ball", {"radius": positive(radius, "radius")})


def clipped_gaussian(
    noise_std: float, low: float = 0.0, high: float = 1.0, radius: float | None = None
) -> tuple[MechanismPart, ...]:
    """A clip as `clip_part` has it, and Gaussian noise after it."""
    return (
        clip_part(low, high, radius),
        MechanismPart("gaussian", {"noise_std": positive(noise_std, "noise_std")}),
    )


def _beyond_defaults(**given: Any) -> dict[str, Any]:
    """Those that are not what `ConditionalEntropy` takes anyway: specs name what was chosen."""
    defaults = {"rank": 8, "balance": "pictures", "projection": None}
    return {name: value for name, value in given.items() if value != defaults[name]}


def _penalty(
    weight: float,
    schedule: ScheduleName,
    surrogate: Surrogate,
    covariance: Covariance,
    clusters: int,
    more: Mapping[str, Any],
) -> PenaltyPart:
    if schedule not in _SCHEDULES:
        raise UnknownNameError("schedule", schedule, _SCHEDULES)
    chosen: Schedule = _SCHEDULES[schedule](weight)
    params = {"surrogate": surrogate, "covariance": covariance, "clusters": clusters, **more}
    return PenaltyPart("conditional_entropy", chosen, params)
