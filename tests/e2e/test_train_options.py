"""`train` with a task, with weights to start from, with pictures that are streamed or do not decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_fixtures import Run
from PIL import Image
from safetensors.numpy import load_file

from task_fixtures import save_squares, squares

QUICK = ["--recipe", "tiny", "--set", "epochs=1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))


def test_a_trained_model_is_hardened_behind_the_same_tail(run: Run, tmp_path: Path) -> None:
    data = save_squares(tmp_path / "squares.npz", "labels", 160)
    first = run("train", "--data", data, "--defense", "none", "--out", tmp_path / "plain", *QUICK)
    assert first.code == 0, first.err
    words = ["train", "--data", data, "--defense", "gaussian", "--weights", tmp_path / "plain", "--freeze-tail", *QUICK]
    said = run(*words, "--out", tmp_path / "hard")
    assert said.code == 0, said.err
    plain, hard = (load_file(tmp_path / name / "weights.safetensors") for name in ("plain", "hard"))
    assert all((hard[name] == value).all() for name, value in plain.items() if name.startswith("tail."))
    wrong = run(*words, "--model", "small", "--out", tmp_path / "other")
    assert (wrong.code, wrong.out) == (3, "")
    assert "no model beside the run" in wrong.err
    gone = run("train", "--data", data, "--weights", tmp_path / "gone", "--out", tmp_path / "other", *QUICK)
    assert (gone.code, "got nothing" in gone.err) == (4, True)
    assert not (tmp_path / "other").exists()


def test_a_value_is_learned_and_its_score_is_named(run: Run, tmp_path: Path) -> None:
    data = save_squares(tmp_path / "places.npz", "targets", 160)
    words = ["train", "--data", data, "--task", "regression", "--task-param", "loss=absolute", *QUICK]
    said = run(*words, "--defense", "gaussian", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert "1-nmae" in said.out
    assert "accuracy" not in said.out
    found: dict[str, Any] = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["score"]["name"] == "1-nmae"
    spec: dict[str, Any] = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["task"]["params"]["loss"] == "absolute"


def test_corrupt_pictures_are_counted_and_streamed_without(run: Run, tmp_path: Path) -> None:
    pictures, labels, _, _ = squares(120)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "pictures" / f"size{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index}.png")
    for index in (4, 6):
        (tmp_path / "pictures" / "size0" / f"{index}.png").write_bytes(b"broken")
    words = ["train", "--data", tmp_path / "pictures", "--defense", "none", "--out", tmp_path / "run", *QUICK]
    said = run(*words, "--stream")
    assert (said.code, said.out) == (3, "")
    assert "2 of 120 pictures do not decode" in said.err
    assert not (tmp_path / "run").exists()
    done = run(*words, "--stream", "--skip-corrupt", "--size", "10", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["input_shape"] == [1, 10, 10]
    assert sum(result["splits"].values()) == 118


def test_an_unknown_task_has_a_neighbour(run: Run, tmp_path: Path) -> None:
    said = run("train", "--task", "regresion", "--out", tmp_path / "run", *QUICK)
    assert (said.code, said.out) == (3, "")
    assert "did you mean 'regression'" in said.err
    listed = run("list", "tasks")
    assert listed.code == 0
    assert "segmentation" in listed.out
