"""Who runs the jobs of a command: options that are shared, and what they amount to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from splitveil.experiments.engines.jobs import Engine

__all__ = ["Address", "CpusPerRun", "EngineName", "GpusPerRun", "Retries", "make_engine"]

EngineName = Annotated[str | None, typer.Option("--engine", help="local or ray; see  splitveil list engines.")]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster: auto, host:port, ray://host:port; none starts one here.")
]
CpusPerRun = Annotated[int | None, typer.Option(min=1, help="With ray: cores for each run; 1 by default.")]
GpusPerRun = Annotated[
    float | None, typer.Option(min=0, help="With ray: GPUs for each, or a share of one; 1 where there are any.")
]
Retries = Annotated[
    int | None, typer.Option(min=0, help="With ray: tries again for a run whose worker died; 2 by default.")
]


def make_engine(name: str | None, **given: Any) -> Engine:
    """The engine of this name, local by default; options that it does not have are refused.

    Raises:
        UnknownNameError: no such engine, or an option of another one.
        MissingExtraError: what it needs is not installed.
    """
    from splitveil.registry import ENGINES, build

    chosen = name or "local"
    options = {key: value for key, value in given.items() if value is not None}
    return cast("Engine", build(ENGINES.load(chosen), options, f"engine '{chosen}'"))
