"""``splitveil convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json


def convert(
    file: Annotated[Path, typer.Argument(help="A .pth, .pt or .bin file of weights.")],
    out: Annotated[Path | None, typer.Option(help="The safetensors file; beside the other by default.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Turn a PyTorch file that holds nothing but tensors into safetensors; nothing in it is executed."""
    from splitveil.nets.conversion import convert_weights

    target = out or file.with_suffix(".safetensors")
    names = convert_weights(file, target)
    if json_:
        echo_json({"file": str(target), "tensors": names})
    else:
        typer.echo(f"{target}: {len(names)} tensors")
