"""Scores per sample, and their summary with an interval and the worst case."""
