"""Bounds on what a release can tell, and on what attackers can do with it: pure functions of features and noise."""

from splitveil.bounds.capacity import capacity_ball, capacity_box, payload_information
from splitveil.bounds.distortion import DITHER_MSE, blocks, entropy_power, shannon, undithered
from splitveil.bounds.fisher import continuity, fisher_rows, spectrum, unbiased, van_trees
from splitveil.bounds.heldout import HeldOut, held_out_information
from splitveil.bounds.identification import (
    binary_relative_entropy,
    demonstrated_information,
    identification,
    identification_information,
    utility_floor,
)
from splitveil.bounds.information import information_bound
from splitveil.bounds.statements import Certificate, Estimate, Statement

__all__ = [
    "Certificate",
    "DITHER_MSE",
    "Estimate",
    "HeldOut",
    "Statement",
    "binary_relative_entropy",
    "blocks",
    "capacity_ball",
    "capacity_box",
    "continuity",
    "demonstrated_information",
    "entropy_power",
    "fisher_rows",
    "held_out_information",
    "identification",
    "identification_information",
    "information_bound",
    "payload_information",
    "shannon",
    "spectrum",
    "unbiased",
    "undithered",
    "utility_floor",
    "van_trees",
]
