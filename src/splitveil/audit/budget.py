"""Whether an attack was trained for long enough: the same attack on half the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from splitveil.attacks.committee import Committee
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.fitting import DecoderAttack
from splitveil.attacks.shadow import Shadow
from splitveil.contracts import Attack
from splitveil.registry import ATTACKS
from splitveil.specs import PlugInSpec

__all__ = ["on_half_the_epochs"]


def on_half_the_epochs(attack: PlugInSpec) -> PlugInSpec | None:
    """The attack with half its epochs, of all that it trains; None where there is no half, or nothing that trains.

    Example:
        >>> on_half_the_epochs(PlugInSpec(name="decoder", params={"epochs": 9})).params
        {'epochs': 4}
    """
    kind = cast(type[Attack], ATTACKS.load(attack.name))
    if kind is Committee:
        members = [_halved(member, Decoder) for member in attack.params.get("members", Committee.members)]
        alike = len({repr(sorted(member.items())) for member in members}) < len(members)
        whole = all(member["epochs"] for member in members) and not alike
        return PlugInSpec(name=attack.name, params={"members": members}) if whole else None
    if not issubclass(kind, DecoderAttack):
        return None
    halved = _halved(attack.params, kind)
    return PlugInSpec(name=attack.name, params=halved) if all(halved[name] for name in _epochs_of(kind)) else None


def _epochs_of(kind: type[DecoderAttack]) -> tuple[str, ...]:
    return ("epochs", "shadow_epochs") if issubclass(kind, Shadow) else ("epochs",)


def _halved(params: Mapping[str, Any], kind: type[DecoderAttack]) -> dict[str, Any]:
    return {**params, **{name: int(params.get(name, getattr(kind, name))) // 2 for name in _epochs_of(kind)}}
