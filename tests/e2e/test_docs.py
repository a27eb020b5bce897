"""The pages are followed to the letter: their files, their entry points, their commands, their Python."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from docs_runner import blocks

RUNNER = Path(__file__).with_name("docs_runner.py")
DOCS = Path(__file__).parents[2] / "docs"
QUICK = ("concepts.md", "your_own_attack.md", "your_own_defense.md")
LONG = ("index.md", "audit_an_encoder.md", "saved_pairs.md")
ELSEWHERE = (
    "your_own_loop.md",
    "harden_a_timm_model.md",
    "data.md",
    "harden.md",
)  # test_tutorials.py, test_data_docs.py
IN_PARTS = ("deploy.md", "serving.md", "training_at_scale.md")  # they need a server, or several devices


def install(page: Path, folder: Path) -> None:
    """What an installation of the package on a page would leave on the path: its files and its entry points."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and block.title:
            (folder / block.title).write_text(block.text)
        if block.language == "toml":
            for group, entries in tomllib.loads(block.text)["project"]["entry-points"].items():
                lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    facts = folder / "page-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: page\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")


def follow(name: str, folder: Path) -> str:
    """What a page prints when it is followed in a folder."""
    install(DOCS / name, folder)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = subprocess.run(
        [sys.executable, str(RUNNER), str(DOCS / name)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.parametrize("name", QUICK)
def test_a_page_can_be_followed(name: str, tmp_path: Path) -> None:
    assert follow(name, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LONG)
def test_a_longer_page_can_be_followed(name: str, tmp_path: Path) -> None:
    assert follow(name, tmp_path)


def test_all_pages_with_code_are_followed() -> None:
    coded = {page.name for page in DOCS.glob("*.md") if any(b.language in ("python", "console") for b in blocks(page))}
    assert coded == {*QUICK, *LONG, *ELSEWHERE, *IN_PARTS}


@pytest.mark.parametrize("name", IN_PARTS)
def test_what_a_page_imports_is_there(name: str) -> None:
    source = "\n".join(block.text for block in blocks(DOCS / name) if block.language == "python")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("splitveil"):
            module = import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sv":
            assert hasattr(import_module("splitveil"), node.attr)


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    said = subprocess.run(words, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "site" / "reference" / "command_line" / "index.html").is_file()


def test_the_code_of_a_defense_is_as_short_as_the_page_says() -> None:
    [source] = [block.text for block in blocks(DOCS / "your_own_defense.md") if block.title == "my_defense.py"]
    code = [line for line in source.splitlines() if line.strip() and not line.startswith(("from ", '"""'))]
    assert len(code) <= 20
