"""The device's half of a split: it draws the noise, computes the release and asks the cloud, without PyTorch.

Names are imported when they are first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# onnxruntime reports to its maker unless this is set before it is loaded: nothing but releases leaves the device
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

_LAZY = {
    "AsyncEdgeClient": "client",
    "Budget": "ledger",
    "Edge": "edge",
    "EdgeClient": "client",
    "EdgeError": "errors",
    "EntropyNoise": "noise",
    "KeyedNoise": "noise",
    "Ledger": "ledger",
    "Passport": "passport",
    "Retries": "retrying",
    "read_passport": "passport",
}

__all__ = [
    "AsyncEdgeClient",
    "Budget",
    "Edge",
    "EdgeClient",
    "EdgeError",
    "EntropyNoise",
    "KeyedNoise",
    "Ledger",
    "Passport",
    "Retries",
    "read_passport",
]

if TYPE_CHECKING:
    from splitveil_edge.client import AsyncEdgeClient as AsyncEdgeClient
    from splitveil_edge.client import EdgeClient as EdgeClient
    from splitveil_edge.edge import Edge as Edge
    from splitveil_edge.errors import EdgeError as EdgeError
    from splitveil_edge.ledger import Budget as Budget
    from splitveil_edge.ledger import Ledger as Ledger
    from splitveil_edge.noise import EntropyNoise as EntropyNoise
    from splitveil_edge.noise import KeyedNoise as KeyedNoise
    from splitveil_edge.passport import Passport as Passport
    from splitveil_edge.passport import read_passport as read_passport
    from splitveil_edge.retrying import Retries as Retries


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'splitveil_edge' has no attribute '{name}'")
    return getattr(import_module(f"splitveil_edge.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
