"""Tasks other than classification from training to report: what is scored, what is said of it, what is attacked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitveil.certificates.api import certify
from splitveil.defenses import cem, gaussian
from splitveil.errors import InputError, MissingDataError, SpecError
from splitveil.experiments.api import attack, load_model, train
from splitveil.experiments.storage import task_scores
from splitveil.export.bundle import export
from splitveil.export.verifying import verify_bundle
from splitveil.noise import SeededNoise
from splitveil.records import Evaluation, RunRecord
from splitveil.report.build import build_report
from splitveil.report.console import summary_rows
from splitveil.rng import Rng
from splitveil.specs import RunSpec, parse
from task_fixtures import FAST, save_squares, squares


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("regression")
    data = save_squares(folder / "places.npz", "targets")
    return train(
        None, data, cem(weight=0.05, clusters=2), out=folder / "run", recipe="tiny", device="cpu", task="regression",
        training={**FAST, "epochs": 12},
    )  # fmt: skip


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("segmentation")
    data = save_squares(folder / "masks.npz", "masks")
    return train(
        "task_fixtures:dense", data, cem(weight=0.05), out=folder / "run", recipe="tiny", device="cpu",
        task="segmentation", training={**FAST, "epochs": 40, "lr": 0.2},
    )  # fmt: skip


def test_a_regression_run_says_what_its_score_is(regression: RunRecord) -> None:
    found = regression.evaluation
    assert found is not None
    assert found.accuracy is None
    assert found.score.name == "1-nmae"
    scores = task_scores(regression.path)
    assert float(scores.double().mean()) == pytest.approx(found.score.result.mean)
    assert found.score.result.mean > 0.72  # to say the mean of places from 0 to 7 in 7ths scores 0.71
    assert set(load_file(regression.path / "samples/test.safetensors")) == {"score"}
    assert regression.spec.learns.params["low"] == [0.0]


def test_a_segmentation_run_finds_the_squares(segmentation: RunRecord) -> None:
    found = segmentation.evaluation
    assert found is not None
    assert (found.score.name, found.accuracy) == ("mean-iou", None)
    assert found.score.result.mean > 0.6  # all background scores about 0.45
    model = load_model(segmentation, model="task_fixtures:dense")
    x = torch.from_numpy(squares(3, seed=9)[0])[:, None].float() / 255
    assert model.predict(model.release(x, noise=SeededNoise(Rng(0)))).shape == (3, 2, 12, 12)


def test_runs_of_both_are_attacked_and_reported(regression: RunRecord, segmentation: RunRecord, tmp_path: Path) -> None:
    result = attack(regression, "ridge", device="cpu")
    assert 0 < result.metrics["mse"].mean < 0.2
    rows = summary_rows([regression, segmentation])
    assert [row["score_name"] for row in rows] == ["1-nmae", "mean-iou"]
    assert [row["accuracy"] for row in rows] == [None, None]
    page = build_report([regression, segmentation], tmp_path / "page.html").read_text()
    assert "Task score, %" in page
    alone = build_report([segmentation], tmp_path / "alone.html").read_text()
    assert "Mean IoU, %" in alone
    assert "Accuracy, %" not in alone


def test_no_floor_is_certified_where_there_is_no_accuracy(regression: RunRecord) -> None:
    card = certify(regression, device="cpu")
    assert "utility_floor" in card.skipped
    assert all("utility" not in statement.name for statement in card.statements)


def test_pictures_without_labels_need_an_original(tmp_path: Path) -> None:
    data = save_squares(tmp_path / "bare.npz", "nothing")
    with pytest.raises(SpecError, match="distillation"):
        train(None, data, gaussian(), out=tmp_path / "run", recipe="tiny", training=FAST)
    with pytest.raises(SpecError, match="expected weights of the model that task 'distillation' learns from"):
        train(None, data, gaussian(), out=tmp_path / "run", recipe="tiny", training=FAST, task="distillation")
    assert not (tmp_path / "run").exists()


def test_a_live_data_set_trains_and_is_passed_again(tmp_path: Path) -> None:
    pictures, labels, _, _ = squares(160)
    data = [(picture, int(label)) for picture, label in zip(pictures, labels, strict=True)]
    run = train(None, data, gaussian(), out=tmp_path / "run", recipe="tiny", training=FAST, device="cpu")
    assert run.spec.data.source == "live"
    assert attack(run, "mean_image", device="cpu", data=data).metrics["mse"].n > 0
    with pytest.raises(MissingDataError, match="pass it again as data="):
        load_model(run)
    with pytest.raises(InputError, match="expected the pictures with digest"):
        load_model(run, data=data[:150])


def test_rare_classes_can_weigh_or_come_as_much(tmp_path: Path) -> None:
    pictures, labels, _, _ = squares(160)
    chosen = [index for index in range(160) if labels[index] == 0 or index % 8 == 1]
    data = [(pictures[index], int(labels[index])) for index in chosen]
    common = {"out": tmp_path / "weighed", "recipe": "tiny", "device": "cpu"}
    from splitveil.specs import PlugInSpec

    weighed = train(
        None, data, gaussian(), training=FAST,
        task=PlugInSpec(name="classification", params={"class_weights": "balanced"}), **common,
    )  # fmt: skip
    rare, frequent = weighed.spec.learns.params["class_weights"][::-1]
    assert rare == pytest.approx(4 * frequent, rel=0.2)
    drawn = train(
        None, data, gaussian(), training={**FAST, "sampling": "balanced"}, **{**common, "out": tmp_path / "drawn"}
    )
    assert drawn.evaluation is not None
    assert drawn.evaluation.accuracy is not None


@pytest.mark.parametrize("task", ["regression", "segmentation"])
def test_a_bundle_is_measured_by_the_score_of_its_task(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run: RunRecord = request.getfixturevalue(task)
    assert run.evaluation is not None
    factory = "task_fixtures:dense" if task == "segmentation" else None
    exported = export(run, tmp_path / "bundle", model=factory)
    assert exported.measured.score["name"] == run.evaluation.score.name
    assert exported.measured.score["mean"] == pytest.approx(run.evaluation.score.result.mean, abs=0.02)
    assert (exported.measured.same_predictions is None) == (task == "regression")
    [parity] = [check for check in verify_bundle(exported.path, run=run, trusted=factory) if check.name == "parity"]
    assert parity.state == "pass", parity.detail


def test_old_records_are_read_and_two_scores_are_not() -> None:
    result = {"unit": "", "safer": "higher", "mean": 0.9, "low": 0.8, "high": 1.0, "level": 0.95, "worst": 0.0}
    result |= {"worst_index": 1, "n": 10}
    rest = {
        "payload_bytes": 4, "edge_parameters": 1, "cloud_parameters": 1, "input_shape": [1, 8, 8], "feature": {},
        "release": {}, "noise": [], "class_names": ["a", "b"], "splits": {}, "elapsed_s": 1.0,
    }  # fmt: skip
    old = parse(Evaluation, {"accuracy": result, "score": None, **rest}, "old")
    assert old == parse(Evaluation, {"format": 2, "score": {"name": "accuracy", "result": result}, **rest}, "new")
    assert old.accuracy is not None
    named = {"name": "mean-iou", "result": result}
    other = parse(Evaluation, {"score": named, **rest}, "old")
    assert (other.score.name, other.accuracy) == ("mean-iou", None)
    with pytest.raises(SpecError, match="a newer splitveil wrote it"):
        parse(Evaluation, {"format": 3, "score": named, **rest}, "later")
    for wrong, said in (({}, "the key 'score'"), ({"accuracy": result, "score": named}, "accuracy")):
        with pytest.raises(SpecError, match=said):
            parse(Evaluation, {**wrong, **rest}, "wrong")


def test_old_specs_keep_their_identity() -> None:
    old = {
        "data": {"source": "digits"}, "model": {"factory": None}, "defense": {"name": "none"},
        "training": {"epochs": 1}, "task": "classification",
    }  # fmt: skip
    spec = parse(RunSpec, old, "old")
    plain = spec.identity()
    assert set(plain) == {"format", "seed", "data", "model", "defense", "training", "task"}
    assert not {"size", "skip_corrupt", "stream", "path"} & set(plain["data"])
    streamed = spec.model_copy(update={"data": spec.data.model_copy(update={"stream": True, "path": "/elsewhere"})})
    assert streamed.identity() == plain
    resized = spec.model_copy(update={"data": spec.data.model_copy(update={"size": 8})})
    assert resized.identity() != plain
