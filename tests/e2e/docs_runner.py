"""Follow a page: its commands in this process, its Python in one namespace, in the order in which they stand.

``python docs_runner.py page.md folder``; `blocks` reads the code blocks of a page.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block: its language, its title (the file that it is) and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, fence by fence, so that the end of one is not the beginning of another."""
    return [Block(*found) for found in _FENCE.findall(page.read_text())]


def commands(block: Block) -> list[list[str]]:
    """The words of each command; a line that ends with a backslash goes on."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def _run(words: list[str]) -> None:
    from splitveil import cli

    assert words[0] == "splitveil", words
    sys.argv = words
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code:
            raise


def main(page: Path) -> None:
    """Follow it in the current folder."""
    space: dict[str, object] = {"__name__": "page"}
    sys.modules["page"] = type(sys)("page")  # dataclasses look their module up
    for number, block in enumerate(blocks(page)):
        if block.language == "console":
            for words in commands(block):
                _run(words)
        elif block.language == "python" and not block.title:
            exec(compile(block.text, f"{page.name}, block {number}", "exec"), space)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
