"""Defenses: mechanisms at the wire, penalties in training, and presets that pair them."""

from splitveil.defenses.base import Defense, load_defense
from splitveil.defenses.field import (
    bottleneck,
    disco,
    distcorr,
    dropout,
    ensembler,
    hsic,
    laplace,
    noise_arl,
    noise_nopeek,
    patrol,
    quantise,
    ressfl,
    sca,
    shredder,
    topk,
    vib,
)
from splitveil.defenses.presets import cem, conditional_entropy, gaussian, none

__all__ = [
    "Defense",
    "bottleneck",
    "cem",
    "conditional_entropy",
    "disco",
    "distcorr",
    "dropout",
    "ensembler",
    "gaussian",
    "hsic",
    "laplace",
    "load_defense",
    "noise_arl",
    "noise_nopeek",
    "none",
    "patrol",
    "quantise",
    "ressfl",
    "sca",
    "shredder",
    "topk",
    "vib",
]
