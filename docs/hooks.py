"""Pages that are made when the documentation is built: the command line, from its own help."""

from __future__ import annotations

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from splitveil.cli import app


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the command line."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="splitveil")
    content = get_docs_for_click(obj=command, ctx=context, name="splitveil", title="Command line")
    files.append(File.generated(config, "reference/command_line.md", content=content))
    return files
