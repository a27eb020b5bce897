"""Defenses: mechanisms at the wire, penalties in training, and presets that pair them."""

from splitveil.defenses.base import Defense, load_defense
from splitveil.defenses.presets import cem, conditional_entropy, gaussian, none

__all__ = ["Defense", "cem", "conditional_entropy", "gaussian", "load_defense", "none"]
