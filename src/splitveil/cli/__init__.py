"""The command line: one small file per command, no logic, no torch before it is needed."""

from __future__ import annotations

import sys

import typer

from splitveil.cli import (
    attack,
    audit,
    bundle,
    certify,
    compare,
    convert,
    demo,
    doctor,
    export,
    infer,
    listing,
    plan,
    report,
    serve,
    train,
)
from splitveil.errors import OutputError, SplitveilError
from splitveil_edge.errors import EdgeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="splitveil",
    help="Split inference that keeps its pictures: train, attack and report networks cut between device and cloud.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("compare")(compare.compare)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("attack")(attack.attack)
app.command("audit")(audit.audit)
app.command("certify")(certify.certify)
app.command("report")(report.report)
app.command("export")(export.export)
app.add_typer(bundle.app, name="bundle")
app.command("infer", **infer.SETTINGS)(infer.infer)
app.command("serve")(serve.serve)
app.command("convert")(convert.convert)
app.command("doctor")(doctor.doctor)
app.command("list")(listing.list_names)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("splitveil"))
        raise typer.Exit
    if context.invoked_subcommand in _LEARNING:
        from splitveil.memory import keep_freed_memory

        keep_freed_memory()


_LEARNING = ("demo", "compare", "plan", "train", "attack", "audit")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line: errors of the user's go to stderr in one line, with their exit code."""
    try:
        app(prog_name="splitveil")
    except (SplitveilError, EdgeError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a path that the operating system refuses, such as a name that is too long
        if error.filename is None:
            raise
        typer.echo(f"error: cannot use '{error.filename}': {error.strerror}; choose another path", err=True)
        sys.exit(OutputError.exit_code)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer turns Ctrl-C within a command into an exit of its own
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        typer.echo("interrupted: what is finished or checkpointed stays; the same command does the rest", err=True)
        sys.exit(_INTERRUPTED)
