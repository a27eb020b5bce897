"""The notebook runs from its first cell to its last, and what is stored in it came from such a run."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "any_attack_any_defense.ipynb"

nbformat = pytest.importorskip("nbformat")


def test_it_is_stored_as_it_ran() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 2
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_it_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(list((tmp_path / "runs" / "any_attack_any_defense").iterdir())) == 5
