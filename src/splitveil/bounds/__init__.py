"""Bounds on what a release can tell: pure functions of features and noise."""

from splitveil.bounds.capacity import capacity_ball, capacity_box
from splitveil.bounds.heldout import HeldOut, held_out_information
from splitveil.bounds.information import information_bound

__all__ = ["HeldOut", "capacity_ball", "capacity_box", "held_out_information", "information_bound"]
