"""Measurements: timed, never asserted. Run one with ``python -m benchmarks.NAME`` from the checkout."""

from splitveil.memory import keep_freed_memory

keep_freed_memory()  # as the command line does
