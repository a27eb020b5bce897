"""splitveil: split inference that keeps its pictures.

Names are imported when they are first used: importing the package imports no torch, starts no CUDA and configures
no logging.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# onnxruntime reports to its maker unless this is set before it is loaded: nothing but releases leaves the device
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_LAZY = {
    "Objective": "splitveil.training.objective:Objective",
    "RunRecord": "splitveil.records:RunRecord",
    "RunSpec": "splitveil.specs:RunSpec",
    "SplitModel": "splitveil.split_model:SplitModel",
    "SplitParts": "splitveil.nets.parts:SplitParts",
    "SplitveilError": "splitveil.errors:SplitveilError",
    "ThreatModel": "splitveil.threats:ThreatModel",
    "attack": "splitveil.experiments.api:attack",
    "audit": "splitveil.audit:",
    "certify": "splitveil.certificates.api:certify",
    "defenses": "splitveil.defenses:",
    "export": "splitveil.export:",
    "factory": "splitveil.experiments.api:factory",
    "load_data": "splitveil.data:load_data",
    "load_model": "splitveil.experiments.api:load_model",
    "report": "splitveil.report:",
    "objective": "splitveil.experiments.api:objective",
    "plan": "splitveil.experiments.planning.api:plan",
    "protect": "splitveil.experiments.api:protect",
    "split": "splitveil.nets.cutting:split",
    "train": "splitveil.experiments.api:train",
}

__all__ = [
    "Objective",
    "RunRecord",
    "RunSpec",
    "SplitModel",
    "SplitParts",
    "SplitveilError",
    "ThreatModel",
    "attack",
    "audit",
    "certify",
    "defenses",
    "export",
    "factory",
    "load_data",
    "load_model",
    "objective",
    "plan",
    "protect",
    "report",
    "split",
    "train",
]

if TYPE_CHECKING:
    from splitveil import defenses as defenses
    from splitveil.audit.api import audit as audit
    from splitveil.certificates.api import certify as certify
    from splitveil.data import load_data as load_data
    from splitveil.errors import SplitveilError as SplitveilError
    from splitveil.experiments.api import attack as attack
    from splitveil.experiments.api import factory as factory
    from splitveil.experiments.api import load_model as load_model
    from splitveil.experiments.api import objective as objective
    from splitveil.experiments.api import protect as protect
    from splitveil.experiments.api import train as train
    from splitveil.experiments.planning.api import plan as plan
    from splitveil.export.bundle import export as export
    from splitveil.nets.cutting import split as split
    from splitveil.nets.parts import SplitParts as SplitParts
    from splitveil.records import RunRecord as RunRecord
    from splitveil.report.build import build_report as report
    from splitveil.specs import RunSpec as RunSpec
    from splitveil.split_model import SplitModel as SplitModel
    from splitveil.threats import ThreatModel as ThreatModel
    from splitveil.training.objective import Objective as Objective


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'splitveil' has no attribute '{name}'")
    module_name, _, attribute = _LAZY[name].partition(":")
    module = import_module(module_name)
    return getattr(module, attribute) if attribute else module


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
