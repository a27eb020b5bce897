"""Runs that start from a trained model: whose weights, what stays frozen, what a budget counts from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from splitveil.data.loader import Pictures
from splitveil.defenses import cem, ensembler, gaussian, none, shredder
from splitveil.errors import InputError, MissingDataError, OutputError, SpecError
from splitveil.experiments.api import attack, make_spec, train
from splitveil.experiments.compare.api import plan_cells
from splitveil.experiments.completing import complete, prepare
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.starting import find_weights, mean_score
from splitveil.experiments.training import load_data_spec
from splitveil.nets.cutting import make_network
from splitveil.records import RunRecord
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec, RunSpec
from splitveil.training.tasks import Classification
from task_fixtures import FAST, save_squares, squares

CUT: dict[str, Any] = {"model": "squeezenet1_1", "at": "features.1", "input_shape": [3, 33, 33]}
NO_TRAINING = {"epochs": 1, "batch_size": 64, "lr": 1e-30, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_squares(tmp_path_factory.mktemp("data") / "squares.npz", "labels")


@pytest.fixture(scope="module")
def earlier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A model that was trained without a defense."""
    out = tmp_path_factory.mktemp("earlier") / "run"
    return train(None, data, none(), out=out, recipe="tiny", device="cpu", training={**FAST, "epochs": 25})


def test_the_model_to_start_from_has_learned(earlier: RunRecord) -> None:
    assert earlier.evaluation is not None
    assert earlier.evaluation.score.result.mean > 0.8


def go(
    data: Path, out: Path, weights: Path, defense: Any = None, factory: str | None = None, **changes: Any
) -> RunRecord:
    settings = {"recipe": "tiny", "device": "cpu", "weights": weights, **changes}
    return train(factory, data, defense or gaussian(noise_std=0.05), out=out, **settings)


def weights_of(run: RunRecord, part: str) -> dict[str, torch.Tensor]:
    held = load_file(run.path / "weights.safetensors")
    return {name: value for name, value in held.items() if name.startswith(f"{part}.")}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --------------------------------------------------------------------------------------------------- weights


def test_a_run_starts_where_another_ended(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    run = go(data, tmp_path / "run", earlier.path, training=NO_TRAINING)
    assert run.spec.model == earlier.spec.model
    assert run.spec.weights is not None
    assert run.spec.weights.digest is not None
    for part in ("head", "tail"):
        held, before = weights_of(run, part), weights_of(earlier, part)
        learned = [name for name in held if "running" not in name and "num_batches" not in name]
        assert learned
        assert all(torch.allclose(held[name], before[name], atol=1e-7) for name in learned)


def test_what_it_starts_from_and_its_pictures_may_move(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    places = [tmp_path / "here", tmp_path / "there"]
    shutil.copytree(earlier.path, places[0] / "plain")
    shutil.copy(data, places[0] / "squares.npz")
    run = go(places[0] / "squares.npz", tmp_path / "run", places[0] / "plain", training=NO_TRAINING)
    before = (run.path / "weights.safetensors").stat().st_mtime_ns
    places[0].rename(places[1])
    again = go(places[1] / "squares.npz", tmp_path / "run", places[1] / "plain", training=NO_TRAINING)
    assert (again.path / "weights.safetensors").stat().st_mtime_ns == before, "it was trained again"
    assert again.spec.weights is not None
    assert Path(again.spec.weights.path).is_relative_to(places[1])
    assert attack(again, "mean_image", device="cpu").metrics["mse"].mean > 0, "its pictures are found"
    with pytest.raises(OutputError, match=r"another spec \(different: weights\.digest"):
        go(places[1] / "squares.npz", run.path, run.path, training=NO_TRAINING)


def test_a_frozen_tail_keeps_every_bit_and_the_head_learns(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    run = go(data, tmp_path / "run", earlier.path, cem(weight=0.05), training={**FAST, "freeze_tail": True})
    assert equal(weights_of(run, "tail"), weights_of(earlier, "tail"))
    assert not equal(weights_of(run, "head"), weights_of(earlier, "head"))
    assert attack(run, "mean_image", device="cpu").metrics["mse"].mean > 0


def test_the_weights_of_head_and_tail_can_lie_in_a_file_alone(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes((earlier.path / "weights.safetensors").read_bytes())
    run = go(data, tmp_path / "run", file, training={**FAST, "freeze_tail": True})
    assert equal(weights_of(run, "tail"), weights_of(earlier, "tail"))
    with pytest.raises(InputError, match="expected the weights of this head"):
        go(data, tmp_path / "other", file, factory="small", bottleneck=3, training=FAST)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures, labels, _, _ = squares(64)
    large = np.repeat(np.pad(pictures, ((0, 0), (10, 11), (10, 11)))[..., None], 3, axis=3)
    file = tmp_path_factory.mktemp("coloured") / "squares.npz"
    np.savez(file, images=large, labels=labels)
    return file


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Rng(7).scoped():
        network = make_network("squeezenet1_1", 2, (3, 33, 33))
    file = tmp_path_factory.mktemp("uncut") / "network.safetensors"
    save_file(network.state_dict(), file)
    return file


def whole(coloured: Path, uncut: Path, **kwargs: Any) -> RunSpec:
    return make_spec(
        str(coloured), model="cut", model_kwargs={**CUT, **kwargs}, defense=PlugInSpec(name="none"),
        recipe=load_recipe("tiny"), weights=uncut,
    )  # fmt: skip


def test_an_uncut_network_is_cut_and_is_its_own_reference(coloured: Path, uncut: Path) -> None:
    spec = whole(coloured, uncut, bottleneck=None)
    loaded = load_data_spec(spec.data)
    found, original = complete(spec, loaded.source, loaded.splits)
    assert original is not None
    assert "weights" not in found.model.kwargs
    network = make_network("squeezenet1_1", 2, (3, 33, 33), uncut).eval()
    x, _ = Pictures(loaded.splits.test).get(torch.arange(6))
    mean, std = (torch.tensor(found.model.kwargs[name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((x - mean) / std)
        torch.testing.assert_close(original.told.eval()(x), expected)
        joined = nn.Sequential(original.parts.head, original.parts.tail).eval()
        torch.testing.assert_close(joined(x), expected, atol=1e-4, rtol=1e-4)
    test = Pictures(loaded.splits.test)
    right = sum(float((network((a - mean) / std).argmax(1) == b).sum()) for a, b in test.batches(5))
    assert mean_score(original.told, Classification(), test) == pytest.approx(right / len(test))
    assert (original.fresh, original.outputs) == (False, 2)


def test_fresh_layers_in_the_tail_cannot_be_frozen(coloured: Path, uncut: Path, tmp_path: Path) -> None:
    frozen = {**FAST, "freeze_tail": True}
    with pytest.raises(SpecError, match="bottleneck=null"):
        go(coloured, tmp_path / "run", uncut, factory="cut", training=frozen, **CUT, bottleneck=4)
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_start_a_run_but_no_budget(coloured: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file(nn.Sequential(nn.Linear(2, 2)).state_dict(), file)
    with pytest.raises(InputError, match="expected the weights of this network"):
        go(coloured, tmp_path / "a", file, factory="cut", training=FAST, **CUT)
    with pytest.raises(SpecError, match="choose the model 'cut'"):
        go(coloured, tmp_path / "b", file, factory="small", training=FAST)


# ---------------------------------------------------------------------------------------------------- budget


def test_a_budget_counts_from_the_original(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    run = go(data, tmp_path / "run", earlier.path, cem(noise_std=1.0, budget_points=20), training={**FAST, "epochs": 4})
    events = list(run.events())
    (selected,) = [event for event in events if event["event"] == "selected"]
    (before,) = [event for event in earlier.events() if event["event"] == "selected"]
    # the earlier run has no noise at the wire, so that its own validation is the original's
    assert selected["reference_accuracy"] == pytest.approx(before["val_accuracy"])
    assert selected["reference_accuracy"] != [e for e in events if e["event"] == "epoch"][3]["val_accuracy"]
    kept = [event["keeps_budget"] for event in events if event["event"] == "epoch" and event["stage"] == "budget"]
    assert kept
    assert all(isinstance(item, bool) for item in kept)


def test_without_weights_a_budget_counts_from_the_stage_before(data: Path, tmp_path: Path) -> None:
    run = train(
        None, data, cem(noise_std=0.05, budget_points=20), out=tmp_path / "run", recipe="tiny", device="cpu",
        training={**FAST, "epochs": 4},
    )  # fmt: skip
    events = list(run.events())
    reference = [e["val_accuracy"] for e in events if e["event"] == "epoch" and e["stage"] == "reference"]
    assert next(e for e in events if e["event"] == "selected")["reference_accuracy"] in reference


# ----------------------------------------------------------------------------------------------- distillation


def test_a_model_is_distilled_without_labels(earlier: RunRecord, tmp_path: Path) -> None:
    bare = save_squares(tmp_path / "bare.npz", "nothing", 160)
    run = go(bare, tmp_path / "run", earlier.path, cem(weight=0.02, clusters=2), task="distillation", training=FAST)
    found = run.evaluation
    assert found is not None
    assert found.score.name == "agreement"
    assert found.score.result.mean > 0.8
    assert run.spec.learns.params == {"classes": 2}
    assert attack(run, "mean_image", device="cpu").metrics["mse"].mean > 0


def test_a_model_is_distilled_with_labels_and_settles(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    given = {"task": "distilled_classification", "training": {**FAST, "settle": 0.5}}
    run = go(data, tmp_path / "run", earlier.path, cem(weight=0.02, clusters=2), **given)
    assert run.evaluation is not None
    assert run.evaluation.accuracy is not None
    assert run.evaluation.accuracy.mean > 0.8
    assert run.spec.learns.params == {"classes": 2}
    stages = [event["stage"] for event in run.events() if event["event"] == "epoch"]
    assert stages.count("settle") == round(0.5 * FAST["epochs"])


@pytest.mark.parametrize(
    ("defense", "parts"),
    [
        (gaussian(), ("tail", "finish")),
        (shredder(), ("tail", "finish")),
        (ensembler(bodies=3, chosen=2), ("finish",)),
    ],
    ids=["gaussian", "shredder", "ensembler"],
)
def test_what_settles_is_behind_the_wire_and_was_free_to_learn(
    data: Path, defense: Any, parts: tuple[str, ...]
) -> None:
    plug_in = PlugInSpec(name=defense.name, params=dict(defense.params))
    spec = make_spec(str(data), defense=plug_in, recipe=load_recipe("tiny"), training={"settle": 0.25})
    loaded = load_data_spec(spec.data)
    spec, original = complete(spec, loaded.source, loaded.splits)
    last = prepare(spec, loaded.source, original).stages[-1]
    assert (last.name, last.parts, last.share) == ("settle", parts, 0.25)


def test_a_tail_is_frozen_or_settles(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="got both: set settle to 0"):
        go(data, tmp_path / "run", earlier.path, training={**FAST, "freeze_tail": True, "settle": 0.5})


# -------------------------------------------------------------------------------------------------- bad input


def _missing(earlier: RunRecord, tmp_path: Path) -> Path:
    return tmp_path / "nowhere.safetensors"


def _empty(earlier: RunRecord, tmp_path: Path) -> Path:
    return tmp_path


def _noise(earlier: RunRecord, tmp_path: Path) -> Path:
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    return tmp_path / "noise.safetensors"


@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        (_missing, MissingDataError, "got nothing: give a safetensors file"),
        (_empty, MissingDataError, "expected the folder of a run"),
        (_noise, InputError, "splitveil convert"),
    ],
)
def test_what_are_no_weights_is_refused(
    earlier: RunRecord,
    data: Path,
    tmp_path: Path,
    weights: Callable[[RunRecord, Path], Path],
    kind: type[Exception],
    said: str,
) -> None:
    with pytest.raises(kind, match=said):
        go(data, tmp_path / "out" / "run", weights(earlier, tmp_path), training=FAST)
    assert not (tmp_path / "out").exists()


def test_a_file_that_has_changed_is_refused(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes((earlier.path / "weights.safetensors").read_bytes())
    spec = make_spec(
        str(data), defense=PlugInSpec(name="none"), recipe=load_recipe("tiny"), weights=file, training=FAST
    )
    loaded = load_data_spec(spec.data)
    sealed, _ = complete(spec, loaded.source, loaded.splits)
    tensors = load_file(file)
    save_file({name: value * 2 for name, value in tensors.items()}, file)
    with pytest.raises(InputError, match="the weights that the run began with"):
        complete(sealed, loaded.source, loaded.splits)


def test_a_model_beside_the_run_that_decides_it_is_refused(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no model beside the run"):
        go(data, tmp_path / "run", earlier.path, factory="small")


def test_other_splits_of_the_same_pictures_are_refused(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="some it has learned would be tested"):
        go(data, tmp_path / "run", earlier.path, limit=200, training=FAST)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": None}, "expected weights of the tail that is frozen"),
        ({"defense": ensembler(bodies=3, chosen=2)}, "a defense that leaves the tail as it is"),
    ],
)
def test_a_tail_that_cannot_be_frozen(
    earlier: RunRecord, data: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    given = {"weights": earlier.path, **changes, "training": {**FAST, "freeze_tail": True}}
    with pytest.raises(SpecError, match=said):
        go(data, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_weights_that_the_defense_would_throw_away_are_refused(earlier: RunRecord, data: Path, tmp_path: Path) -> None:
    defense = ensembler(bodies=3, chosen=2)
    with pytest.raises(SpecError, match="expected no weights under 'ensembler', which begins every stage with fresh"):
        go(data, tmp_path / "run", earlier.path, defense, training=FAST)
    assert not (tmp_path / "run").exists()
    plug_in = PlugInSpec(name=defense.name, params=dict(defense.params))
    spec = make_spec(
        str(data), defense=plug_in, recipe=load_recipe("tiny"), weights=earlier.path, task="distilled_classification"
    )
    loaded = load_data_spec(spec.data)
    spec, original = complete(spec, loaded.source, loaded.splits)
    assert prepare(spec, loaded.source, original).original is not None, "they teach"


def test_a_run_in_training_is_no_start(earlier: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text((earlier.path / "spec.json").read_text())
    with pytest.raises(SpecError, match="expected a finished run"):
        find_weights(tmp_path)


def test_a_comparison_starts_all_runs_from_one_model(earlier: RunRecord, data: Path) -> None:
    cells = plan_cells(
        ["none", "gaussian"], data=str(data), grid={"noise_std": [0.1, 0.2]}, seeds=1, recipe="tiny",
        weights=earlier.path, training={"freeze_tail": True},
    )  # fmt: skip
    assert len({cell.name for cell in cells}) == 3
    assert all(cell.spec.weights is not None and cell.spec.model == earlier.spec.model for cell in cells)
    plain = plan_cells(["none"], data=str(data), grid={}, seeds=1, recipe="tiny")
    assert plain[0].name != cells[0].name
