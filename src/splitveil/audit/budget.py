"""Whether an attack was trained for long enough: the same attack on half the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from splitveil.attacks.committee import Committee
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.fitting import DecoderAttack
from splitveil.contracts import Attack
from splitveil.registry import ATTACKS
from splitveil.specs import PlugInSpec

__all__ = ["on_half_the_epochs"]


def on_half_the_epochs(attack: PlugInSpec) -> PlugInSpec | None:
    """The attack with half its epochs; None for one that trains no decoder, or a single epoch.

    Example:
        >>> on_half_the_epochs(PlugInSpec(name="decoder", params={"epochs": 9})).params
        {'epochs': 4}
    """
    kind = cast(type[Attack], ATTACKS.load(attack.name))
    if kind is Committee:
        members = attack.params.get("members", Committee.members)
        return PlugInSpec(name=attack.name, params={"members": [_halved(member, Decoder) for member in members]})
    if not issubclass(kind, DecoderAttack):
        return None
    halved = _halved(attack.params, kind)
    return PlugInSpec(name=attack.name, params=halved) if halved["epochs"] else None


def _halved(params: Mapping[str, Any], kind: type[DecoderAttack]) -> dict[str, Any]:
    return {**params, "epochs": int(params.get("epochs", kind.epochs)) // 2}
