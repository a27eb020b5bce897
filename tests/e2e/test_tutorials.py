"""The tutorials on loops of one's own are followed: their Python in one namespace, their commands, in order."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from docs_runner import blocks

DOCS = Path(__file__).parents[2] / "docs"


def steps(page: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks that can be followed."""
    return [(block.language, block.text) for block in blocks(DOCS / page) if block.language in ("python", "console")]


def follow(code: list[tuple[str, str]], folder: Path) -> str:
    """What the blocks print, in a process and a folder of their own."""
    lines = ["import subprocess, sys"]
    for language, text in code:
        if language == "python":
            lines.append(text)
            continue
        for command in text.replace("\\\n", " ").splitlines():
            words = shlex.split(command)
            lines.append(f"subprocess.run([sys.executable, '-m', *{words!r}], check=True)")
    script = folder / "page.py"
    script.write_text("\n".join(lines))
    said = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.long
def test_a_loop_of_ones_own_in_plain_pytorch(tmp_path: Path) -> None:
    plain = [(language, text) for language, text in steps("your_own_loop.md") if "lightning" not in text]
    assert len(plain) == 2
    said = follow(plain, tmp_path)
    assert "'conditional_entropy': " in said
    assert "(5, 8, 8, 8)" in said  # 1,797 digits in batches of 64 leave five


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_loop_of_ones_own_in_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    follow(steps("your_own_loop.md"), tmp_path)
    assert (tmp_path / "protected.ckpt").is_file()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_timm_model_is_hardened_in_ten_lines(tmp_path: Path) -> None:
    code = steps("harden_a_timm_model.md")
    hardening = next(text for _, text in code if "sv.objective" in text)
    assert len(hardening.splitlines()) == 10
    said = follow(code, tmp_path)
    assert "(4, 1, 32, 32) -> (4, 8, 8, 8) -> (4, 10)" in said
    assert (tmp_path / "runs" / "resnet18" / "attacks.json").is_file()
