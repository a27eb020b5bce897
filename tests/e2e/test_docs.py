"""The page on defenses of one's own is followed to the letter: its file, its entry points, its commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "your_own_defense.md"


def blocks(language: str) -> list[str]:
    """The code blocks of a language, fence by fence, so that the end of one is not the beginning of another."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture
def plug_in(tmp_path: Path) -> Path:
    """What an installation of the package would leave on the path."""
    [source], [declared] = blocks("python"), blocks("toml")
    (tmp_path / "my_defense.py").write_text(source)
    groups = tomllib.loads(declared)["project"]["entry-points"]
    facts = tmp_path / "my_defense-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-defense\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
    ]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_defense_of_ones_own_trains_by_its_name(plug_in: Path) -> None:
    [commands] = [block for block in blocks("") if "splitveil train" in block]
    environment = {**os.environ, "PYTHONPATH": str(plug_in)}
    for line in commands.strip().splitlines():
        words = [sys.executable, "-m", *shlex.split(line)]
        said = subprocess.run(words, cwd=plug_in, env=environment, capture_output=True, text=True, timeout=300)
        assert said.returncode == 0, said.stderr
    assert "coarse" in said.stdout
    assert "my-defense" in said.stdout
    for run in ("coarse", "both"):
        assert (plug_in / "runs" / run / "weights.safetensors").is_file()
    [events] = [(plug_in / "runs" / "coarse" / "events.jsonl").read_text()]
    assert '"small"' in events


def test_its_code_is_as_short_as_the_page_says() -> None:
    [source] = blocks("python")
    code = [line for line in source.splitlines() if line.strip() and not line.startswith(("from ", '"""'))]
    assert len(code) <= 20
