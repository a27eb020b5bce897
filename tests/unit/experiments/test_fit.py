"""A model that does not fit its data is refused before it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from splitveil.data.digits import load_digits
from splitveil.defenses import patrol
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import MissingExtraError, OutputError, SpecError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.building import check_fit
from splitveil.experiments.training import LoadedData, load_data_spec, train_run
from splitveil.nets import pruning
from splitveil.nets.parts import SplitParts
from splitveil.nets.small import small
from splitveil.specs import DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.split_model import SplitModel
from training_fixtures import Listener

DATA = DataSpec(source="digits", limit=160)


def test_a_model_that_fits_passes_and_keeps_its_mode() -> None:
    model = SplitModel(small(classes=12), Gaussian(noise_std=0.1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_fit(model, load_digits())
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (small(classes=3), r"output \(n, 10\).*got \(n, 3\)"),
        (small(classes=10, input_shape=(3, 8, 8)), r"shape \(1, 8, 8\), got one for \(3, 8, 8\)"),
        (SplitParts(nn.Identity(), nn.Linear(7, 10), (1, 8, 8)), "cannot take pictures of shape"),
        (SplitParts(nn.Identity(), nn.Identity(), (1, 8, 8)), r"got \(n, 1, 8, 8\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(parts: SplitParts, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_fit(SplitModel(parts, Gaussian(noise_std=0.1)), load_digits())


@pytest.fixture(scope="module")
def data() -> LoadedData:
    return load_data_spec(DATA)


def pruned(**params: Any) -> RunSpec:
    return RunSpec(
        data=DATA,
        model=ModelSpec(factory="splitveil.nets.small:small", kwargs={"width": 0.5, "bottleneck": 4}),
        defense=PlugInSpec(name="patrol", params=dict(patrol(deeper=4, **params).params)),
        training=TrainingSpec(epochs=1, batch_size=32, lr=0.05),
    )


def test_a_head_that_cannot_be_pruned_to_its_budget_is_not_trained(data: LoadedData, tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(SpecError, match="allow a larger edge_budget"):
        train_run(pruned(edge_budget=0.001), tmp_path / "run", data=data, observer=listener)
    assert listener.steps == 0
    assert not (tmp_path / "run").exists(), "another budget may take the folder"


def test_a_head_is_not_trained_where_nothing_can_prune_it_and_is_loaded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, data: LoadedData, tmp_path: Path
) -> None:
    finished = train_run(pruned(), tmp_path / "finished", data=data)
    monkeypatch.setattr(pruning, "find_spec", lambda name: None)
    listener = Listener()
    with pytest.raises(MissingExtraError, match=r"splitveil\[prune\]"):
        train_run(pruned(), tmp_path / "run", data=data, observer=listener)
    assert listener.steps == 0
    assert train_run(pruned(), tmp_path / "finished", data=data).path == finished.path
    load_model(finished, data)


class _Intruder(Listener):
    """Trains the same run at the first step of the one who trains it."""

    def __init__(self, spec: RunSpec, out: Path) -> None:
        super().__init__()
        self.spec, self.out, self.said = spec, out, ""

    def advance(self, text: str) -> None:
        if self.steps == 0:
            with pytest.raises(OutputError) as refused:
                train_run(self.spec, self.out)
            self.said = str(refused.value)
        super().advance(text)


def test_a_run_that_is_being_trained_is_trained_by_nobody_else(tmp_path: Path) -> None:
    model = ModelSpec(factory="splitveil.nets.small:small", kwargs={"width": 0.5})
    defense = PlugInSpec(name="bottleneck", params={"noise_std": 0.1})
    spec = RunSpec(data=DATA, model=model, defense=defense, training=TrainingSpec(epochs=1, batch_size=32, lr=0.05))
    intruder = _Intruder(spec, tmp_path / "run")
    assert train_run(spec, tmp_path / "run", observer=intruder).finished
    assert "another process trains now: wait for it, or choose another --out" in intruder.said
    assert train_run(spec, tmp_path / "run").finished
    assert not (tmp_path / "run" / ".lock").exists()
