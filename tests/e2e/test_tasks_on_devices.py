"""Masks, streamed pictures and trained models on several devices: the same runs as on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from splitveil.defenses import cem, gaussian, none
from splitveil.experiments.api import train
from splitveil.records import RunRecord
from task_fixtures import FAST, save_squares, squares

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CPU = {"recipe": "tiny", "accelerator": "cpu"}
FLIPPED = {"epochs": 3, "batch_size": 32, "lr": 0.01, "augment": {"crop": 1, "flip": True}}


def same(one: RunRecord, two: RunRecord) -> None:
    """Weights and scores of two runs, up to rounding."""
    first, second = (load_file(run.path / "weights.safetensors") for run in (one, two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: name + text)
    assert one.evaluation is not None
    assert two.evaluation is not None
    assert two.evaluation.score.name == one.evaluation.score.name
    assert two.evaluation.score.result.mean == pytest.approx(one.evaluation.score.result.mean, abs=0.02)


def both(out: Path, *arguments: Any, **options: Any) -> tuple[RunRecord, RunRecord]:
    """The run on one device, and on two."""
    pytest.importorskip("lightning_fabric")
    one, two = (train(*arguments, out=out / str(n), devices=n, **CPU, **options) for n in (1, 2))
    return one, two


def test_masks_move_with_their_pictures_on_every_device(tmp_path: Path) -> None:
    data = save_squares(tmp_path / "masks.npz", "masks")
    one, two = both(
        tmp_path, "task_fixtures:dense", data, gaussian(noise_std=0.1), task="segmentation", training=FLIPPED
    )
    same(one, two)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    pictures, labels, _, _ = squares(240)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        place = root / f"size{label}"
        place.mkdir(exist_ok=True)
        Image.fromarray(picture).save(place / f"{index}.png")
    return root


def test_a_trained_model_is_hardened_on_streamed_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    earlier = train(None, folder, none(), out=tmp_path / "earlier", training={**FAST, "epochs": 25}, **CPU)
    one, two = both(
        tmp_path,
        None,
        f"unlabeled:{folder}",
        cem(weight=1.0, clusters=2, budget_points=5.0),
        task="distillation",
        weights=earlier.path,
        stream=True,
        training={**FLIPPED, "freeze_tail": True},
    )
    same(one, two)
    held, before = (load_file(run.path / "weights.safetensors") for run in (two, earlier))
    tail = [name for name in before if name.startswith("tail.")]
    assert tail
    assert all(torch.equal(held[name], before[name]) for name in tail)
