"""``splitveil list``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, parse_shape, print_table
from splitveil.errors import UnknownNameError, UsageError


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="defenses, attacks, metrics, models, recipes, sources, suites, tasks, engines, mechanisms, penalties; "
            "cuts."
        ),
    ] = None,
    model: Annotated[str | None, typer.Argument(help="Of cuts: vgg11 (torchvision) or timm:resnet18.")] = None,
    input_shape: Annotated[str, typer.Option(help="Of cuts: channels, rows, columns of a picture.")] = "3,224,224",
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Show what there is to choose from; `list cuts MODEL` shows where a network can be cut."""
    from splitveil import registry

    if kind == "cuts":
        _cuts(model, input_shape, json_)
        return
    if model is not None:
        raise UsageError(f"expected a network beside 'cuts' alone, got '{model}' beside '{kind}'")
    kinds = {
        "attacks": registry.ATTACKS,
        "defenses": registry.DEFENSES,
        "engines": registry.ENGINES,
        "mechanisms": registry.MECHANISMS,
        "metrics": registry.METRICS,
        "models": registry.MODELS,
        "penalties": registry.PENALTIES,
        "recipes": registry.RECIPES,
        "sources": registry.SOURCES,
        "suites": registry.SUITES,
        "tasks": registry.TASKS,
    }
    if kind is not None and kind not in kinds:
        raise UnknownNameError("kind", kind, (*kinds, "cuts"))
    chosen = {name: kinds[name] for name in kinds if kind in (None, name)}
    if json_:
        echo_json({name: {entry.name: entry.help for entry in found} for name, found in chosen.items()})
        return
    width = max(len(entry.name) for found in chosen.values() for entry in found)
    for name, found in chosen.items():
        typer.echo(f"{name}:")
        for entry in found:
            typer.echo(f"  {entry.name:<{width}} {entry.help}")


def _cuts(model: str | None, input_shape: str, json_: bool) -> None:
    from rich.table import Table

    from splitveil.nets.cutting import list_cuts

    if model is None:
        raise UsageError("expected a network beside 'cuts', got none: splitveil list cuts timm:resnet18")
    found = list_cuts(model, input_shape=parse_shape(input_shape))
    if json_:
        echo_json([asdict(item) for item in found])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("at", "features", "payload bytes", "edge parameters", "edge multiply-adds", "cloud %"):
        table.add_column(column, justify="left" if column in ("at", "features") else "right")
    for item in found:
        shape = " x ".join(map(str, item.shape))
        figures = (f"{value:,}" for value in (item.payload_bytes, item.edge_parameters, item.edge_multiply_adds))
        table.add_row(item.name, shape, *figures, f"{100 * item.cloud_share:.1f}")
    print_table(table, width=120)
