"""Shipping: ONNX graphs, bundles with their passport, and what holds them against the run they came from.

The package can be called, as `splitveil.export.bundle.export`.
"""

from splitveil.rooms import make_callable

make_callable(__name__, "splitveil.export.bundle:export")
