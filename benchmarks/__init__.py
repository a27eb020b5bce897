"""Measurements: timed, never asserted. Run one with ``python -m benchmarks.NAME`` from the checkout."""
