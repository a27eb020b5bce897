"""The benchmark of the paper's table: what its kinds differ in, and what its summary says of rows that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitveil.errors import SpecError

ROOT = Path(__file__).parents[2]
NOISE = (0.05, 0.15)
PICTURES = 400


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def rows_of_the_paper() -> list[str]:
    return ["bottleneck", "distcorr", "dropout", "patrol", "ressfl", "noise_nopeek", "noise_arl"]


@pytest.mark.parametrize("row", [*rows_of_the_paper(), "noise_arl-lambda8", "noise_arl-cut5"])
def test_kinds_differ_in_the_penalty_alone(row: str) -> None:
    from benchmarks.paper.scales import KINDS, ROWS, SCALES, defense_of

    for scale in SCALES.values():
        without, paper, settled, ours = (defense_of(ROWS[row], kind, 0.1, scale) for kind in KINDS)
        assert without.mechanisms == paper.mechanisms == ours.mechanisms
        assert paper == settled
        assert paper.penalties[:-1] == ours.penalties[:-1] == without.penalties
        assert paper.penalties[-1].name == ours.penalties[-1].name == "conditional_entropy"
        assert paper.penalties[-1].params["surrogate"] == "thresholded_trace"


def test_the_figure_s_lambdas_are_those_of_the_paper_at_full_scale() -> None:
    from benchmarks.paper.scales import ROWS, SCALES, defense_of

    weights: dict[str, Any] = {
        name: defense_of(ROWS[name], "paper", 0.1, SCALES["full"]).penalties[-1].schedule.weight
        for name in ("noise_arl-lambda2", "noise_arl-lambda8", "noise_arl", "noise_arl-lambda32")
    }
    assert list(weights.values()) == [2, 8, 16, 32]


def test_each_curve_is_of_a_row_that_trains_it_and_stands_in_the_paper() -> None:
    from benchmarks.paper.curves import CURVES
    from benchmarks.paper.reference import FIGURE
    from benchmarks.paper.scales import ROWS

    assert list(CURVES) == list(FIGURE)
    assert all(kind in ROWS[row].kinds for row, kind in CURVES.values())


def point(kind: str, noise_std: float, accuracy: float, mse: float) -> dict[str, Any]:
    from benchmarks.harness import pack

    spread = np.linspace(0.5, 1.5, PICTURES)[:: -1 if kind == "ours" else 1]
    correct = np.arange(PICTURES) < round(accuracy * PICTURES)
    return {
        "kind": kind,
        "noise_std": noise_std,
        "seed": 0,
        "accuracy": {"mean": accuracy},
        "paper": {
            "train": {"mse": mse, "low": 0.9 * mse, "high": 1.1 * mse},
            "infer": {"mse": 1.1 * mse, "low": mse, "high": 1.2 * mse},
        },
        "honest": {"attack": "decoder", "mse": {"mean": mse}},
        "correct": pack(correct.astype(float), 1),
        "error": pack(mse * spread),
        "seconds": 1.0,
    }


def test_the_summary_of_known_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import harness
    from benchmarks.paper import publishing

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(publishing, "FOLDER", tmp_path / "paper")
    (tmp_path / "paper").mkdir()
    gains = {"without": 1.0, "paper": 1.25, "paper_settled": 1.25 * 10**0.04, "ours": 1.25 * 10**0.1}
    points = [
        point(kind, noise, accuracy, mse * gain)
        for kind, gain in gains.items()
        for noise, accuracy, mse in ((0.05, 0.8, 0.01), (0.15, 0.7, 0.02))
    ]
    record = {"row": "noise_arl", "scale": "reduced", "seeds": 1, "points": points}
    (tmp_path / "paper" / "noise_arl@reduced.json").write_text(json.dumps(record))
    publishing.build()
    found = json.loads((tmp_path / "paper" / "cifar10.json").read_text())
    summary = found["summary"]
    assert summary["gain_paper_protocol_pct"] == pytest.approx(25.0, abs=1e-6)
    assert summary["gain_honest_pct"] == pytest.approx(25.0, abs=0.5)
    assert summary["best_over_paper_cem_db"] == pytest.approx(1.0, abs=0.02)
    over = summary["reduced"]["ours_over_paper_cem"]["rows"]["noise_arl"]
    assert over["low"] < over["db"] - 0.05 < over["db"] + 0.05 < over["high"], (
        "the estimate, not the end of its interval"
    )
    assert over["overlapping_share"] > 0.9
    assert summary["best_over_paper_cem_taught_db"] == pytest.approx(0.6, abs=0.02)
    part = summary["reduced"]
    assert part["gain_paper_protocol_limits_pct"] == pytest.approx((100 * (1.125 / 1.1 - 1), 100 * (1.375 / 0.9 - 1)))
    assert part["accuracy_points_at_equal_noise"] == pytest.approx(0.0)
    assert part["printed_gain_pct"]["train"] == pytest.approx(100 * (0.0330 / 0.0290 - 1))
    assert part["printed_accuracy_points"] == pytest.approx(-0.16)
    assert part["gain_honest_rows"] == "1 of 1 have accuracies in common"
    assert [row["printed_accuracy"] for row in found["rows"] if row["kind"] == "paper"] == pytest.approx([0.8762] * 2)


def test_ours_more_accurate_everywhere_is_compared_with_the_most_accurate_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import harness
    from benchmarks.paper import publishing

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(publishing, "FOLDER", tmp_path / "paper")
    (tmp_path / "paper").mkdir()
    at = {"without": (0.7, 0.010), "paper": (0.6, 0.010), "ours": (0.8, 0.012)}
    points = [
        point(kind, noise, accuracy - less, mse * more)
        for kind, (accuracy, mse) in at.items()
        for noise, less, more in ((0.05, 0.0, 1.0), (0.15, 0.1, 2.0))
    ]
    record = {"row": "dropout", "scale": "reduced", "seeds": 1, "points": points}
    (tmp_path / "paper" / "dropout@reduced.json").write_text(json.dumps(record))
    publishing.build()
    summary = json.loads((tmp_path / "paper" / "cifar10.json").read_text())["summary"]
    assert summary["best_over_paper_cem_is"] == "at least"
    assert summary["best_over_paper_cem_db"] == pytest.approx(10 * np.log10(2.4), abs=0.05)
    [found] = summary["reduced"]["ours_over_paper_cem"]["rows"].values()
    assert found["points_more_accurate"] == pytest.approx(10.0)
    assert found["low"] < found["db"] < found["high"]
    assert summary["best_over_paper_cem_taught_is"] is None, "this row trains no such control"


def test_a_point_of_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from dataclasses import replace

    from benchmarks.paper.points import Point, run_point, seal_of
    from benchmarks.paper.scales import SCALES

    wanted, scale = Point("bottleneck", "paper", 0.05, 0), SCALES["reduced"]
    file = tmp_path / "points" / f"{wanted.name}.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"settings": seal_of(wanted, scale), "accuracy": 0.5}))
    found = run_point(wanted, scale, "nowhere", tmp_path, None)
    assert found is not None
    assert found["accuracy"] == 0.5
    for changed in (replace(scale, our_weight=0.7), replace(scale, draw=2), replace(scale, training={"epochs": 12})):
        with pytest.raises(SpecError, match="choose another --out"):
            run_point(wanted, changed, "nowhere", tmp_path, None)


def test_steps_that_are_done_are_not_done_again_and_none_begins_when_the_time_is_up(tmp_path: Path) -> None:
    from benchmarks.paper.points import _Steps, _TimeIsUpError

    calls = list[str]()

    def step(name: str) -> dict[str, int]:
        calls.append(name)
        return {name: len(calls)}

    assert _Steps(tmp_path, None)("train", lambda: step("train")) == {"train": 1}
    late = _Steps(tmp_path, 0.0)
    assert late("train", lambda: step("train")) == {"train": 1}
    with pytest.raises(_TimeIsUpError):
        late("infer", lambda: step("infer"))
    assert calls == ["train"]
    assert list(late.seconds) == ["train"]


def test_the_curves_of_known_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import harness
    from benchmarks.paper import curves, publishing
    from PIL import Image

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(publishing, "FOLDER", tmp_path / "paper")
    monkeypatch.setattr(curves, "PICTURE", tmp_path / "curves.png")
    (tmp_path / "paper").mkdir()

    def write(row: str, *points: dict[str, Any]) -> None:
        record = {"row": row, "scale": "reduced", "seeds": 1, "points": points}
        (tmp_path / "paper" / f"{row}@reduced.json").write_text(json.dumps(record))

    write("noise_arl", *(point(kind, noise, 0.8 - noise, noise) for kind in ("without", "paper") for noise in NOISE))
    curves.publish_curves()
    assert not (tmp_path / "curves.png").exists(), "the table's row alone is no curve over lambda or cut"
    write("noise_arl-lambda8", *(point("paper", noise, 0.7 - noise, 2 * noise) for noise in NOISE))
    curves.publish_curves()
    found = json.loads((tmp_path / "paper" / "curves.json").read_text())
    assert found["summary"]["curves"] == ["cut 4", "cut 4 + CEM", "lambda 0", "lambda 16", "lambda 8"]
    [first, second] = [row for row in found["rows"] if row["curve"] == "lambda 8"]
    assert (first["noise_std"], first["accuracy"], first["honest_mse"]) == pytest.approx((0.05, 0.65, 0.1))
    assert (second["noise_std"], second["train_mse"]) == pytest.approx((0.15, 0.3))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size > (600, 400)


@pytest.mark.long
def test_refining_a_decoder_keeps_it_near_the_pictures() -> None:
    from benchmarks.paper.adversarial import refine

    from splitveil.attacks.decoder import Decoder
    from splitveil.attacks.subjects import ModelSubject
    from splitveil.attacks.view import AttackerView
    from splitveil.data.loader import Pictures
    from splitveil.data.tables import ImageTable
    from splitveil.defenses.mechanisms.gaussian import Gaussian
    from splitveil.experiments.scoring import release_all
    from splitveil.nets.small import small
    from splitveil.rng import Rng
    from splitveil.split_model import SplitModel
    from splitveil.threats import ThreatModel

    with Rng(0).scoped():
        model = SplitModel(small(classes=2, input_shape=(1, 32, 32), width=0.25), Gaussian(0.05)).eval()
    draw = torch.Generator().manual_seed(0)
    images = (
        (torch.rand(128, 1, 4, 4, generator=draw) * 255).to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    )
    pictures = Pictures(ImageTable(images, torch.arange(128) % 2))
    subject, threat = ModelSubject(model), ThreatModel.preset("white_box")
    view = AttackerView(subject, threat, auxiliary=pictures, rng=Rng(1))
    decoder = Decoder(channels=8, blocks=1, epochs=10, batch_size=16).fit(view, Rng(2))
    x, _ = pictures.get(torch.arange(128))
    r = release_all(subject, pictures, threat, Rng(3))
    before = decoder.reconstruct(r).detach()
    refined, in_training = refine(decoder, subject, pictures, epochs=4, batch_size=16, rng=Rng(4))
    after = refined.reconstruct(r)
    error = [(guess - x).square().mean().item() for guess in (before, after)]
    assert not torch.equal(before, after)
    assert error[1] < 1.2 * error[0]
    assert 0.5 * error[1] < in_training < 2 * error[0]
