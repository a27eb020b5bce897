"""Comparisons: a grid of defenses, parameters and seeds, run by worker processes, read as trade-off curves."""
