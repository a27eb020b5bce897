"""``splitveil infer``: the device's own command line, under this name."""

from __future__ import annotations

import sys
from typing import Any

import typer

SETTINGS: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True},
    "add_help_option": False,
}


def infer(context: typer.Context) -> None:
    """Ask a server about pictures without showing them; the same as  splitveil-edge infer."""
    from splitveil_edge.cli import main

    sys.exit(main(["infer", *context.args], program="splitveil"))
