"""What a plan found, as it is written: ``cuts.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from splitveil.experiments.compare.record import PointRecord, ValidityCheck
from splitveil.records import FiledRecord
from splitveil.specs import Frozen, PlugInSpec

__all__ = ["FILE", "CutRecord", "PlanRecord", "Trial"]

FILE = "cuts.json"


class CutRecord(Frozen):
    """One place to cut.

    Args:
        at: module path.
        shape: of what crosses the wire.
        payload_bytes: of one release.
        edge_parameters: on the device.
        edge_multiply_adds: there, per picture.
        cloud_share: of all multiply-adds, None where only the trained runs know the network.
        front: whether no other cut is at least as good in everything, and better in something.
        point: what the runs that were trained there say; None without pictures, or where all of them failed.
    """

    at: str
    shape: tuple[int, ...]
    payload_bytes: int
    edge_parameters: int
    edge_multiply_adds: int
    cloud_share: float | None
    front: bool
    point: PointRecord | None = None


class Trial(Frozen):
    """How the cuts were tried.

    `status` is ``invalid`` where a control failed, and ``unproven`` where the attacker was not seen to work on the
    undefended model at the first cut.
    """

    data: dict[str, Any]
    defense: PlugInSpec
    recipe: str
    seeds: tuple[int, ...]
    threat: dict[str, Any]
    undefended: PointRecord | None
    checks: tuple[ValidityCheck, ...]
    status: Literal["valid", "unproven", "invalid"]
    failed: dict[str, str]


class PlanRecord(FiledRecord):
    """The cuts of a network.

    Args:
        model: name of the network, or its class.
        input_shape: of a picture.
        classes: k.
        bottleneck: channels on the wire, None for the features as they are.
        objectives: what the front weighs; validation figures where cuts were tried.
        cuts: in the order of the network.
        trial: how they were tried; None where nothing was trained.
    """

    file: ClassVar[str] = FILE
    what: ClassVar[str] = "a plan"
    command: ClassVar[str] = "plan"

    format: Literal[1] = 1
    model: str
    input_shape: tuple[int, ...]
    classes: int
    bottleneck: int | None
    objectives: tuple[str, ...]
    cuts: tuple[CutRecord, ...]
    trial: Trial | None = None
