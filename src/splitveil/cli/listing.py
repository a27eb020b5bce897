"""``splitveil list``."""

from __future__ import annotations

from typing import Annotated

import typer

from splitveil.cli.common import echo_json
from splitveil.errors import UnknownNameError


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(help="defenses, attacks, metrics, models, recipes, sources, suites, mechanisms, penalties."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Show what there is to choose from."""
    from splitveil import registry

    kinds = {
        "attacks": registry.ATTACKS,
        "defenses": registry.DEFENSES,
        "mechanisms": registry.MECHANISMS,
        "metrics": registry.METRICS,
        "models": registry.MODELS,
        "penalties": registry.PENALTIES,
        "recipes": registry.RECIPES,
        "sources": registry.SOURCES,
        "suites": registry.SUITES,
    }
    if kind is not None and kind not in kinds:
        raise UnknownNameError("kind", kind, kinds)
    chosen = {name: kinds[name] for name in kinds if kind in (None, name)}
    if json_:
        echo_json({name: {entry.name: entry.help for entry in found} for name, found in chosen.items()})
        return
    for name, found in chosen.items():
        typer.echo(f"{name}:")
        for entry in found:
            typer.echo(f"  {entry.name:<20} {entry.help}")
