"""What the pages on pictures and on trained models show in Python runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["data.md", pytest.param("harden.md", marks=pytest.mark.long)])
def test_the_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert snippets
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), scope)
