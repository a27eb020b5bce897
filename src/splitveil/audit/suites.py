"""Suites: which attacks an audit tries, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, cast

from splitveil.attacks.fitting import DecoderAttack
from splitveil.attacks.shadow import Shadow
from splitveil.attacks.standardise import MOST_WHITENED
from splitveil.contracts import Attack, FeatureSpec
from splitveil.experiments.recipes import Recipe
from splitveil.registry import ATTACKS, SUITES, build
from splitveil.specs import PlugInSpec
from splitveil.threats import Duplicates, ThreatModel

__all__ = ["Entry", "Suite", "load_suite", "quick", "standard", "strong"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SEARCHED = 1000  # pictures that a search is scored on
_NEAR_ONLY = ("near", "exact")  # what is granted, and what an entry wants, which it does not get


@dataclass(frozen=True, slots=True)
class Entry:
    """One attack of a suite, and how many releases of a picture it wants to see.

    Args:
        attack: registry name and parameters.
        observations: releases of one picture.
        duplicates: of what these are.
        pictures: the most test pictures to score; None for all.
    """

    attack: PlugInSpec
    observations: int = 1
    duplicates: Duplicates = "exact"
    pictures: int | None = None

    @property
    def label(self) -> str:
        """What to call it."""
        if self.observations == 1:
            return self.attack.name
        kind = "near duplicates" if self.duplicates == "near" else "releases"
        return f"{self.attack.name} on {self.observations} {kind}"

    def threat(self, granted: ThreatModel) -> ThreatModel:
        """The part of a threat model that this entry makes use of."""
        return replace(granted, observations=self.observations, duplicates=self.duplicates)

    def refused(self, granted: ThreatModel) -> str | None:
        """Why a threat model does not let it run, or None where it does."""
        configured = cast(Attack, build(ATTACKS.load(self.attack.name), self.attack.params, self.label))
        missing = granted.missing(configured.needs)
        if missing:
            return f"needs {', '.join(missing)}"
        if configured.needs_auxiliary and granted.auxiliary == "none":
            return "needs pictures of its own"
        if configured.package is not None and find_spec(configured.package[0]) is None:
            return f"needs splitveil[{configured.package[1]}] to be installed"
        if self.observations > granted.observations:
            return f"needs {self.observations} releases of one picture"
        if self.duplicates == "exact" and self.observations > 1 and granted.duplicates == "near":
            return "needs releases of the very same picture"
        return None


@dataclass(frozen=True, slots=True)
class Suite:
    """Attacks that are tried together.

    Args:
        name: of the registry.
        budget: what it costs, in words.
        entries: in order.
    """

    name: str
    budget: str
    entries: tuple[Entry, ...]

    def with_adaptive(self, name: str, recipe: Recipe, known: Mapping[str, Any] = _NOTHING) -> Suite:
        """This suite, and the attack that knows the defense where it is not among its own.

        One that trains a decoder has that of the recipe.

        Args:
            name: of the attack.
            recipe: of the audit.
            known: parameters of the attack that the defense names.
        """
        if any(entry.attack.name == name for entry in self.entries):
            return self
        learns = issubclass(ATTACKS.load(name), DecoderAttack) and recipe.attack.name == "decoder"
        twin = PlugInSpec(name=name, params={**(recipe.attack.params if learns else {}), **known})
        return replace(self, entries=(*self.entries, Entry(twin)))

    def granted(self, threat: ThreatModel, recipe: Recipe) -> Suite:
        """This suite with what a threat model grants beyond one release, and without pictures.

        Attackers who see many releases of a picture see as many as are granted; where the suite has none, one is added.
        Where no pictures are granted, a search under a prior that needs none is.

        Args:
            threat: model.
            recipe: of the audit.
        """
        seen, entries = threat.observations, self.entries
        if seen > 1:
            entries = tuple(replace(item, observations=seen) if item.observations > 1 else item for item in entries)
            if all(item.observations == 1 or (threat.duplicates, item.duplicates) == _NEAR_ONLY for item in entries):
                entries = (*entries, Entry(recipe.attack, observations=seen, duplicates=threat.duplicates))
        if threat.auxiliary == "none":
            blind = _entry("optimise", prior="tv", steps=200 * recipe.effort)
            entries = (*entries, replace(blind, pictures=_SEARCHED))
        return replace(self, entries=entries)

    def reading(self, release: FeatureSpec) -> Suite:
        """This suite with decoders that can read a release: those of more channels than can be whitened are scaled.

        Args:
            release: what attackers see.
        """
        if release.shape[release.channel_axis] <= MOST_WHITENED:
            return self
        return replace(self, entries=tuple(replace(item, attack=_unwhitened(item.attack)) for item in self.entries))


def _unwhitened(attack: PlugInSpec) -> PlugInSpec:
    def scaled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: "affine" if (key, item) == ("standardise", "whiten") else scaled(item)
                for key, item in value.items()
            }
        return [scaled(item) for item in value] if isinstance(value, list) else value

    return PlugInSpec(name=attack.name, params=scaled(attack.params))


def load_suite(name: str, recipe: Recipe) -> Suite:
    """A suite by name, at the scale of a recipe.

    Raises:
        UnknownNameError: there is no such suite.
    """
    return cast(Suite, SUITES.load(name)(recipe))


def quick(recipe: Recipe) -> Suite:
    """The decoder of the recipe and the closed form: a first look."""
    return Suite(
        "quick",
        "two attacks; two minutes for digits on two cores",
        (Entry(recipe.attack), _entry("linear")),
    )


def standard(recipe: Recipe) -> Suite:
    """The same, a decoder that thinks on the release's grid, both together, a search, many releases, near duplicates.

    The second decoder reads whitened releases and learns from mirrored pictures where the recipe's training does. It
    errs less than the first in not much more time, so it is the one that sees many releases; these hold so little noise
    that it learns them sooner.
    """
    second = _subpixel(recipe)
    many = PlugInSpec(name="decoder", params={**second, "epochs": recipe.attack.params["epochs"]})
    return Suite(
        "standard",
        "seven attacks; 15 minutes for 12,000 small pictures on two cores",
        (
            *quick(recipe).entries,
            _entry("decoder", **second),
            *_together(recipe, dict(recipe.attack.params), second),
            replace(_entry("optimise", steps=200 * recipe.effort), pictures=_SEARCHED),
            Entry(many, observations=16),
            Entry(many, observations=16, duplicates="near"),
        ),
    )


def strong(recipe: Recipe) -> Suite:
    """The same, wider and longer decoders, searches from many starts, and all attacks of another kind."""
    second, unet = _subpixel(recipe), _unet(recipe)
    wide = {**second, "channels": 2 * int(second["channels"]), "epochs": 2 * int(second["epochs"])}
    residual = {**second, "architecture": "residual"}
    steps = 1000 * recipe.effort
    longer = {} if recipe.effort == 1 else {"shadow_epochs": recipe.effort * Shadow.shadow_epochs}
    warm = _entry("optimise", prior="tv", steps=steps, warm_start="decoder", decoder=second)
    return Suite(
        "strong",
        "eighteen attacks; hours on two cores, made for a GPU",
        (
            *standard(recipe).entries,
            _entry("decoder", **wide),
            _entry("decoder", **residual),
            _entry("decoder", **unet),
            *_together(recipe, second, wide, residual),
            replace(_entry("optimise", steps=steps, restarts=4), pictures=_SEARCHED),
            replace(warm, pictures=_SEARCHED),
            _entry("shadow", **recipe.attack.params, **longer),
            replace(_entry("gan_prior", steps=steps), pictures=_SEARCHED),
            replace(_entry("diffusion_prior"), pictures=_SEARCHED),
            replace(_entry("image_prior", steps=steps), pictures=_SEARCHED),
            replace(_entry("unsplit"), pictures=_SEARCHED),
        ),
    )


def _subpixel(recipe: Recipe) -> dict[str, Any]:
    """Twice the recipe's channels and blocks, half its rate and half as many epochs again, on the release's grid."""
    params = recipe.attack.params
    size = {"channels": 2 * int(params["channels"]), "blocks": 2 * int(params["blocks"])}
    learning = {"lr": params.get("lr", DecoderAttack.lr) / 2, "epochs": 3 * int(params["epochs"]) // 2}
    return {**_whitened(recipe), "architecture": "subpixel", **size, **learning}


def _unet(recipe: Recipe) -> dict[str, Any]:
    """A U-Net of half the recipe's width, for half its epochs: it costs more."""
    params = recipe.attack.params
    size = {"channels": -(-int(params["channels"]) // 2), "epochs": -(-int(params["epochs"]) // 2)}
    return {**_whitened(recipe), "architecture": "unet", **size}


def _whitened(recipe: Recipe) -> dict[str, Any]:
    """The recipe's decoder on releases without correlations, of pictures that are mirrored where it trains on such."""
    return {**recipe.attack.params, "standardise": "whiten", "flip": recipe.training.augment.flip}


def _together(recipe: Recipe, *members: dict[str, Any]) -> tuple[Entry, ...]:
    return (_entry("committee", members=list(members)),) if recipe.attack.name == "decoder" else ()


def _entry(name: str, **params: Any) -> Entry:
    return Entry(PlugInSpec(name=name, params=params))
