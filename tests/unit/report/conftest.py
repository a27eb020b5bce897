"""Shares `make_run` with the tests of this folder."""

from report_fixtures import make_run

__all__ = ["make_run"]
