"""A spec comes from anywhere: it may not run code that the user did not name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitveil.errors import SpecError
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import train_run
from splitveil.specs import DataSpec, ModelSpec, PlugInSpec, RunSpec

MODULE = "foreign_factory_of_a_test"
FACTORY = f"{MODULE}:make"


@pytest.fixture(autouse=True)
def _foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    source = "from splitveil.nets.small import small\n\n\ndef make(classes, input_shape):\n"
    (tmp_path / f"{MODULE}.py").write_text(source + "    return small(classes=classes, input_shape=input_shape)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(MODULE, None)


def spec() -> RunSpec:
    training = load_recipe("tiny").training.model_copy(update={"epochs": 1})
    return RunSpec(
        data=DataSpec(source="digits", limit=400),
        model=ModelSpec(factory=FACTORY),
        defense=PlugInSpec(name="none"),
        training=training,
    )


def test_a_foreign_factory_is_not_even_imported(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"pass  --model {FACTORY}"):
        train_run(spec(), tmp_path / "run", device="cpu")
    assert MODULE not in sys.modules
    assert not (tmp_path / "run").exists()


def test_a_foreign_factory_that_the_user_names_is_trained(tmp_path: Path) -> None:
    record = train_run(spec(), tmp_path / "run", device="cpu", trusted=FACTORY)
    assert record.finished
    assert record.spec.model.kwargs == {"classes": 10, "input_shape": [1, 8, 8]}


def test_another_factory_than_the_spec_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the run was made with the factory"):
        train_run(spec(), tmp_path / "run", device="cpu", trusted="splitveil.nets.small:small")
