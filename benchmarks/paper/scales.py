"""Which rows there are, at which scale they are run, and in which ways: alone, with the paper's CEM, with ours.

Besides the rows of its table, those of its figure 4: other lambdas, and the cut a module before and behind.

Ours counts information by the pixels that it shows (surrogate ``pixels``); it starts from an undefended model, learns
from its answers too, and lets the tail settle. Lest anybody take this for what the penalty does, the paper's CEM is
trained that way too, for the first and the last row: the kind ``paper_settled``. Of ``patrol`` they start from the
undefended model but for the head's first convolutions, which are new.

As in the paper's figure 4, ``ressfl`` is ``noise_arl`` with less noise, and ``distcorr`` is ``noise_nopeek`` with
less: their sweeps have no level in common, or rows of the table would be one row twice. Our CEM does not change when
features and noise are scaled together, so that a head can answer any noise with larger features: its weight rises with
the noise, or all points of its curve would lie in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import SMALLER, rising_weight
from benchmarks.paper.reference import TABLE
from splitveil.defenses import Defense, conditional_entropy, load_defense
from splitveil.specs import PlugInSpec

__all__ = ["DISTILLED", "KINDS", "ROWS", "SCALES", "SETTLED", "Row", "Scale", "defense_of", "papers_cem"]

KINDS = ("without", "paper", "paper_settled", "ours")
SETTLED = ("paper_settled", "ours")
DISTILLED = PlugInSpec(name="distilled_classification", params={"temperature": 4.0, "share": 0.5})


@dataclass(frozen=True, slots=True)
class Row:
    """What is trained in several ways.

    Args:
        name: of the row.
        preset: the defense.
        kinds: the ways.
        strength: times the lambda that the paper's table has.
        cut: of the network, None for that of the table.
    """

    name: str
    preset: str
    kinds: tuple[str, ...] = ("without", "paper", "ours")
    strength: float = 1.0
    cut: int | None = None


_MAIN = ("bottleneck", "noise_arl")  # whose control, the paper's CEM settled, is trained too
_LIST = (
    *(Row(name, name, KINDS) if name in _MAIN else Row(name, name) for name in TABLE),
    *(Row(f"noise_arl-lambda{weight}", "noise_arl", ("paper",), weight / 16) for weight in (2, 8, 32)),
    *(Row(f"noise_arl-cut{cut}", "noise_arl", ("without", "paper"), cut=cut) for cut in (2, 5)),
)
ROWS = {row.name: row for row in _LIST}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything.

    Args:
        recipe: of the training.
        training: changes to it.
        limit: the most pictures to use, None for the recipe's.
        noise: standard deviations, feature units, by preset; ``*`` for all others.
        paper_weight: lambda of the paper's CEM.
        our_weights: of ours, at the least and at the most noise of a row, per nat; between them they rise by a constant
            factor from level to level.
        seeds: of each point, by row; ``*`` for all others.
        decoder: the paper's attacker.
        adversarial: epochs of its adversarial refinement.
        settle: times the epochs, of the kinds that settle.
        honest: attackers of the honest protocol.
        presets: parameters of presets that are not their defaults.
        draw: seed of the pictures, by which they are drawn and dealt. At reduced scale all that was chosen, the paper's
            lambda, our surrogate and the ends of its weights, was chosen on draws 0 and 1.
    """

    recipe: str
    noise: Mapping[str, tuple[float, ...]]
    paper_weight: float
    our_weights: tuple[float, float]
    seeds: Mapping[str, int]
    decoder: Mapping[str, Any]
    adversarial: int
    settle: float
    honest: tuple[PlugInSpec, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    draw: int = 2

    def noise_of(self, row: Row) -> tuple[float, ...]:
        """The sweep of a row."""
        return self.noise.get(row.preset, self.noise["*"])

    def seeds_of(self, row: Row) -> int:
        """How many times each point of a row is trained."""
        return self.seeds.get(row.name, self.seeds["*"])

    def our_weight(self, row: Row, noise_std: float) -> float:
        """Of our CEM at a noise level of the row's sweep."""
        return rising_weight(self.our_weights, self.noise_of(row), noise_std)


_SWEEP = (0.01, 0.025, 0.05, 0.1, 0.15)  # of the released script
_LESS_NOISE = ("distcorr", "ressfl")
_PAPER = {"channels": 64, "blocks": 8, "epochs": 50, "batch_size": 256, "lr": 1e-3, "weight_decay": 1e-4}
_STRONG = {"channels": 64, "blocks": 4, "batch_size": 64, "lr": 1e-3, "flip": True}
_FIRST = PlugInSpec(name="decoder", params=_PAPER | {"flip": True})
_SECOND = PlugInSpec(
    name="decoder", params=_STRONG | {"architecture": "subpixel", "standardise": "whiten", "epochs": 60}
)
_BOTH = PlugInSpec(name="committee", params={"members": [dict(_FIRST.params), dict(_SECOND.params)]})
SCALES = {
    "full": Scale(
        recipe="full",
        noise={
            "bottleneck": _SWEEP,
            "noise_arl": _SWEEP,
            **dict.fromkeys(_LESS_NOISE, (0.015, 0.125)),
            "*": (0.01, 0.15),
        },
        paper_weight=16.0,
        our_weights=(0.1, 0.8),
        seeds={"bottleneck": 3, "noise_arl": 3, "*": 1},
        decoder=_PAPER,
        adversarial=150,
        settle=0.25,
        honest=(_FIRST, _SECOND, _BOTH, PlugInSpec(name="linear")),
        presets={name: {"blocks": 4, "pretrain": 30} for name in ("ressfl", "noise_arl")},
    ),
    "reduced": Scale(
        recipe="quick",
        limit=6_000,
        noise={**dict.fromkeys(_LESS_NOISE, (0.025, 0.2)), "*": (0.05, 0.3)},
        paper_weight=2.0,
        our_weights=(0.3, 3.0),
        seeds={"*": 1},
        decoder={**_PAPER, "channels": 32, "blocks": 2, "epochs": 20, "batch_size": 64},
        adversarial=0,
        settle=1.0,
        honest=(_SECOND, PlugInSpec(name="linear")),
        presets=SMALLER,
    ),
}


def papers_cem(weight: float) -> Defense:
    """The penalty as the paper's released code has it."""
    return conditional_entropy(weight, surrogate="thresholded_trace", covariance="isotropic", schedule="lr_coupled")


def defense_of(row: Row, kind: str, noise_std: float, scale: Scale) -> Defense:
    """A row's defense at a noise level: the mechanism is the same for all kinds, the penalty differs."""
    alone = load_defense(row.preset, {"noise_std": noise_std, **scale.presets.get(row.preset, {})})
    if kind == "without":
        return alone
    if kind in ("paper", "paper_settled"):
        return alone + papers_cem(row.strength * scale.paper_weight)
    return alone + conditional_entropy(scale.our_weight(row, noise_std), surrogate="pixels")
