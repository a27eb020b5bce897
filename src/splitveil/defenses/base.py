"""A defense: configuration only, from which a mechanism and penalties are built for any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from splitveil.contracts import Codec, FeatureSpec, Mechanism, Penalty, Stage, Weighted
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import SpecError, UnknownNameError
from splitveil.registry import DEFENSES, MECHANISMS, PENALTIES, build
from splitveil.rng import Rng
from splitveil.schedules import Schedule
from splitveil.split_model import SplitModel

__all__ = ["AttackPart", "Defense", "MechanismPart", "PenaltyPart", "load_defense"]

_PLUS = "+"
_PLAN = (Stage(),)
_PROBE = FeatureSpec.of((4, 2, 2), range=(0.0, 1.0))


@dataclass(frozen=True, slots=True)
class MechanismPart:
    """A mechanism by its registry name."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, spec: FeatureSpec, rng: Rng) -> Mechanism:
        """The mechanism for features of this spec."""
        kind = MECHANISMS.load(self.name)
        return cast(Mechanism, build(kind.from_spec, self.params, f"mechanism '{self.name}'", spec=spec, rng=rng))


@dataclass(frozen=True, slots=True)
class PenaltyPart:
    """A penalty by its registry name, with the schedule of its weight."""

    name: str
    schedule: Schedule
    params: Mapping[str, Any] = field(default_factory=dict)

    def build(self, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...]) -> Penalty:
        """The penalty for features of this spec, of pictures ``(c, h, w)``."""
        kind = PENALTIES.load(self.name)
        given = {"spec": spec, "classes": classes, "rng": rng, "picture": picture}
        return cast(Penalty, build(kind.from_spec, self.params, f"penalty '{self.name}'", **given))


@dataclass(frozen=True, slots=True)
class AttackPart:
    """An attack by its registry name, with what it knows of the defense: parameters beside those of the suite."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = AttackPart("decoder")


@dataclass(frozen=True, slots=True)
class Defense:
    """What protects a split model: mechanisms that ship, penalties that only train.

    Args:
        name: registry name; with `params` it rebuilds this defense.
        params: JSON values.
        mechanisms: in the order in which they are applied.
        penalties: terms added to the task's loss.
        adaptive: the attacks that know this defense.
        reference: where it comes from.
        plan: the stages of its training; one stage of everything by default.
        surgery: of the model before it trains, such as a deeper head; random weights come from torch's generator.
        codec: how releases are framed as bytes; None for float32.

    Example:
        >>> from splitveil.defenses import conditional_entropy, gaussian
        >>> (gaussian(noise_std=0.1) + conditional_entropy(weight=2.0)).name
        'gaussian+conditional_entropy'
    """

    name: str
    params: Mapping[str, Any]
    mechanisms: tuple[MechanismPart, ...] = ()
    penalties: tuple[PenaltyPart, ...] = ()
    adaptive: tuple[AttackPart, ...] = (_PLAIN,)
    reference: str = ""
    plan: tuple[Stage, ...] = _PLAN
    surgery: Callable[[SplitModel], SplitModel] | None = None
    codec: Codec | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.adaptive, tuple) and all(isinstance(part, AttackPart) for part in self.adaptive)):
            raise SpecError(
                f"expected attacks for adaptive of defense '{self.name}', got {self.adaptive!r}: "
                "pass a tuple, such as (AttackPart('support'),)"
            )

    def build(
        self, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...]
    ) -> tuple[Mechanism, tuple[Weighted, ...]]:
        """The mechanism and the weighted penalties for features of this spec, of pictures ``(c, h, w)``.

        Raises:
            SpecError: a parameter is not valid, or a penalty needs noise that no mechanism declares.
        """
        built: list[Mechanism] = []
        at = spec
        for index, part in enumerate(self.mechanisms):
            built.append(part.build(at, rng.child("mechanism", index)))
            at = built[-1].output_spec(at)
        mechanism = built[0] if len(built) == 1 else Chain(*built) if built else Identity()
        penalties = tuple(
            Weighted(part.name, part.build(spec, classes, rng.child("penalty", index), picture), part.schedule)
            for index, part in enumerate(self.penalties)
        )
        need = [item.name for item in penalties if item.penalty.needs_gaussian_noise]
        if need and mechanism.gaussian_channel(torch.zeros(1, *spec.shape)) is None:
            raise SpecError(
                f"{need[0]} expects a mechanism with Gaussian noise, got none in '{self.name}': without noise the "
                "information in a release is unbounded; add noise, for example "
                f"gaussian(noise_std=0.1) + {need[0]}(...)"
            )
        return mechanism, penalties

    def prepare(self, model: SplitModel) -> SplitModel:
        """Surgery before training (deeper head, masks, bodies); the identity unless the defense brings its own."""
        return model if self.surgery is None else self.surgery(model)

    def stages(self) -> tuple[Stage, ...]:
        """What trains when."""
        return self.plan

    def to_json(self) -> dict[str, Any]:
        """Name and parameters: what `load_defense` turns back into this."""
        return {"name": self.name, "params": dict(self.params)}

    def __add__(self, other: Defense) -> Defense:
        """Both together, attacked by all that know either; two different sources of noise are an error.

        Raises:
            SpecError: both bring noise, and not the same; both bring stages of their own; a penalty in both.
        """
        if self.mechanisms == other.mechanisms or not other.mechanisms:
            mechanisms = self.mechanisms
        elif _noisy(self.mechanisms) and _noisy(other.mechanisms):
            raise SpecError(
                f"expected noise from one side of '{self.name}+{other.name}', got it from both, and not the same: "
                "leave out a part that only adds noise, or give both the same noise_std"
            )
        else:
            mechanisms = self.mechanisms + other.mechanisms
        if None not in (self.surgery, other.surgery) and self.surgery != other.surgery:
            raise SpecError(f"expected one side of '{self.name}+{other.name}' to change the model, got both")
        if None not in (self.codec, other.codec):
            raise SpecError(f"expected one codec in '{self.name}+{other.name}', got two: leave out one")
        names = [part.name for part in (*self.penalties, *other.penalties)]
        if len(set(names)) < len(names):
            raise SpecError(f"expected each penalty once in '{self.name}+{other.name}', got {', '.join(names)}")
        if _PLAN not in (self.plan, other.plan) and self.plan != other.plan:
            raise SpecError(
                f"expected the stages of one side of '{self.name}+{other.name}', got stages from both: "
                "leave out the budget_points of one"
            )
        return Defense(
            name=f"{self.name}{_PLUS}{other.name}",
            params={**self.params, **_prefixed(other)},
            mechanisms=mechanisms,
            penalties=self.penalties + other.penalties,
            adaptive=_all_that_know(self.adaptive + other.adaptive),
            reference="; ".join(text for text in (self.reference, other.reference) if text),
            plan=other.plan if self.plan == _PLAN else self.plan,
            surgery=self.surgery or other.surgery,
            codec=self.codec or other.codec,
        )


def _all_that_know(attacks: tuple[AttackPart, ...]) -> tuple[AttackPart, ...]:
    """Each once; the plain decoder, which every suite has, where there is no other."""
    special = [attack for attack in attacks if attack != _PLAIN]
    return tuple(attack for place, attack in enumerate(special) if attack not in special[:place]) or (_PLAIN,)


def _noisy(parts: tuple[MechanismPart, ...]) -> bool:
    """Whether a mechanism among these draws noise (asked of one built for a small feature)."""
    return any(part.build(_PROBE, Rng(0)).noise_spec(_PROBE) for part in parts)


def load_defense(name: str, params: Mapping[str, Any]) -> Defense:
    """A defense, or the sum of several, from registry name and JSON parameters.

    Args:
        name: of the registry, or several with ``+`` between them: ``ressfl+conditional_entropy``.
        params: of the first; those of another have its name before a dot: ``conditional_entropy.weight``.

    Raises:
        UnknownNameError: no such defense, or no such parameter; with the nearest name.
        SpecError: a value is not valid, or the defenses cannot be added.

    Example:
        >>> load_defense("gaussian+conditional_entropy", {"noise_std": 0.2, "conditional_entropy.weight": 1.0}).name
        'gaussian+conditional_entropy'
    """
    names = [part.strip() for part in name.split(_PLUS)]
    if len(set(names)) < len(names):
        raise SpecError(f"expected different defenses in '{name}', got one twice")
    own: dict[str, dict[str, Any]] = {part: {} for part in names}
    for key, value in params.items():
        part, dot, parameter = key.partition(".")
        if dot and part not in own:
            raise UnknownNameError("defense before the dot", part, names)
        own[part if dot else names[0]][parameter if dot else key] = value
    first, *rest = [cast(Defense, build(DEFENSES.load(part), own[part], f"defense '{part}'")) for part in names]
    for other in rest:
        first = first + other
    return first


def _prefixed(defense: Defense) -> dict[str, Any]:
    """Its parameters as those of a second part; those of a third have the name of theirs already."""
    first = defense.name.split(_PLUS)[0]
    return {key if "." in key else f"{first}.{key}": value for key, value in defense.params.items()}
