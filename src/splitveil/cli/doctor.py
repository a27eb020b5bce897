"""``splitveil doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, print_table


def doctor(json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False) -> None:
    """Show what is installed, what is missing and how to get it; exit with 1 if something is broken."""
    from rich.table import Table

    from splitveil.doctor import examine

    findings = examine()
    if json_:
        echo_json([asdict(item) for item in findings])
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "state", "found", "cure"):
            table.add_column(column, overflow="fold")
        for item in findings:
            table.add_row(item.name, item.state, item.found, item.cure)
        print_table(table)
    if any(item.state == "broken" for item in findings):
        raise typer.Exit(1)
