"""Shares `make_run`, and a browser, with the tests of this folder."""

from report_fixtures import make_run

from browser_fixtures import axe, watched

__all__ = ["axe", "make_run", "watched"]
