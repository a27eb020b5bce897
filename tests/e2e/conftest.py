"""Fixtures of the command line's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_fixtures import Run, Said

from browser_fixtures import axe, watched
from splitveil import cli

__all__ = ["axe", "run", "watched"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def call(*words: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["splitveil", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
