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
from splitveil.specs import PlugInSpec

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
        noise_std = scale.noise_of(ROWS[row])[-1]
        without, paper, settled, ours = (defense_of(ROWS[row], kind, noise_std, scale) for kind in KINDS)
        assert without.mechanisms == paper.mechanisms == ours.mechanisms
        assert paper == settled
        assert paper.penalties[:-1] == ours.penalties[:-1] == without.penalties
        assert paper.penalties[-1].name == ours.penalties[-1].name == "conditional_entropy"
        assert paper.penalties[-1].params["surrogate"] == "thresholded_trace"


@pytest.mark.parametrize("scale", ["reduced", "full"])
def test_no_two_rows_of_the_table_are_one_row_under_two_names(scale: str) -> None:
    from benchmarks.paper.points import points_of, seal_of
    from benchmarks.paper.scales import ROWS, SCALES

    seals = [seal_of(point, SCALES[scale]) for row in ROWS for point in points_of(row, SCALES[scale])]
    assert len(set(seals)) == len(seals)


@pytest.mark.parametrize("scale", ["reduced", "full"])
def test_our_weight_rises_with_the_noise_by_one_factor(scale: str) -> None:
    from benchmarks.paper.scales import ROWS, SCALES

    row, at = ROWS["bottleneck"], SCALES[scale]
    weights = [at.our_weight(row, noise_std) for noise_std in at.noise_of(row)]
    assert (weights[0], weights[-1]) == at.our_weights
    factors = np.divide(weights[1:], weights[:-1])
    assert factors == pytest.approx(factors[0], rel=0.01)


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


def two_levels(at: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Kinds by accuracy and error at the lower level; at the higher one, ten points less and twice the error."""
    return [
        point(kind, noise, accuracy - less, mse * more)
        for kind, (accuracy, mse) in at.items()
        for noise, less, more in ((0.05, 0.0, 1.0), (0.15, 0.1, 2.0))
    ]


def published(row: str, points: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is written of a row that holds these points."""
    from benchmarks import harness
    from benchmarks.paper import publishing

    monkeypatch.setattr(harness, "RESULTS", folder)
    monkeypatch.setattr(publishing, "FOLDER", folder / "paper")
    (folder / "paper").mkdir()
    record = {"row": row, "scale": "reduced", "seeds": 1, "points": points}
    (folder / "paper" / f"{row}@reduced.json").write_text(json.dumps(record))
    publishing.build()
    found: dict[str, Any] = json.loads((folder / "paper" / "cifar10.json").read_text())
    return found


def test_the_paper_s_protocol_is_compared_at_equal_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CEM that does nothing but move along the curve gains by noise, and nothing by accuracy."""
    points = [
        *(point("without", noise, accuracy, mse) for noise, accuracy, mse in ((0.05, 0.8, 0.01), (0.15, 0.7, 0.02))),
        *(
            point(kind, noise, accuracy, mse)
            for kind in ("paper", "ours")
            for noise, accuracy, mse in ((0.05, 0.75, 0.01 * 2**0.5), (0.15, 0.65, 0.02 * 2**0.5))
        ),
    ]
    summary = published("dropout", points, tmp_path, monkeypatch)["summary"]
    assert summary["gain_paper_protocol_pct"] == pytest.approx(0.0, abs=0.01)
    assert summary["gain_paper_protocol_at_equal_noise_pct"] == pytest.approx(100 * (2**0.5 - 1))
    assert summary["reduced"]["accuracy_points_at_equal_noise"] == pytest.approx(-5.0)


def test_the_summary_of_known_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = {"without": 1.0, "paper": 1.25, "paper_settled": 1.25 * 10**0.04, "ours": 1.25 * 10**0.1}
    points = [
        point(kind, noise, accuracy, mse * gain)
        for kind, gain in gains.items()
        for noise, accuracy, mse in ((0.05, 0.8, 0.01), (0.15, 0.7, 0.02))
    ]
    found = published("noise_arl", points, tmp_path, monkeypatch)
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
    assert summary["gain_paper_protocol_at_equal_noise_pct"] == pytest.approx(25.0)
    assert part["printed_gain_pct"]["train"] == pytest.approx(100 * (0.0330 / 0.0290 - 1))
    assert part["printed_accuracy_points"] == pytest.approx(-0.16)
    assert part["gain_honest_rows"] == "1 of 1 have accuracies in common"
    assert [row["printed_accuracy"] for row in found["rows"] if row["kind"] == "paper"] == pytest.approx([0.8762] * 2)


def test_ours_more_accurate_everywhere_is_compared_with_the_most_accurate_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"without": (0.7, 0.010), "paper": (0.6, 0.010), "ours": (0.8, 0.012)}
    summary = published("dropout", two_levels(at), tmp_path, monkeypatch)["summary"]
    assert summary["best_over_paper_cem_is"] == "at least"
    assert summary["best_over_paper_cem_db"] == pytest.approx(10 * np.log10(2.4), abs=0.05)
    [found] = summary["reduced"]["ours_over_paper_cem"]["rows"].values()
    assert found["points_more_accurate"] == pytest.approx(10.0)
    assert found["more_accurate_share"] == 1.0
    assert found["low"] < found["db"] < found["high"]
    assert summary["best_over_paper_cem_taught_is"] is None, "this row trains no such control"


def test_ours_less_accurate_everywhere_is_a_bound_from_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = {"without": (0.7, 0.010), "paper": (0.8, 0.012), "ours": (0.69, 0.020)}
    summary = published("dropout", two_levels(at), tmp_path, monkeypatch)["summary"]
    assert summary["best_over_paper_cem_is"] == "at most"
    assert summary["best_over_paper_cem_db"] == pytest.approx(10 * np.log10(0.020 / 0.024), abs=0.05)
    [found] = summary["reduced"]["ours_over_paper_cem"]["rows"].values()
    assert found["points_more_accurate"] == pytest.approx(-1.0)
    assert found["low"] < found["db"] < found["high"]
    assert found["more_accurate_share"] > 0.9


def test_rows_of_other_settings_are_not_published(tmp_path: Path) -> None:
    from benchmarks.paper.points import points_of, seal_of
    from benchmarks.paper.publishing import check_settings
    from benchmarks.paper.scales import SCALES

    seals = [seal_of(point, SCALES["reduced"]) for point in points_of("dropout", SCALES["reduced"])]
    row = {"row": "dropout", "scale": "reduced", "points": [{"settings": seal} for seal in seals]}
    check_settings([row])
    row["points"][2]["settings"] = "of another weight"
    with pytest.raises(SpecError, match="got 1 of others: run --row dropout"):
        check_settings([row])


def test_of_a_row_that_is_there_the_points_of_other_settings_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.paper import __main__ as command
    from benchmarks.paper import computing
    from benchmarks.paper.points import Point, points_of, seal_of
    from benchmarks.paper.scales import SCALES, Scale

    scale, computed = SCALES["reduced"], list[Point]()

    def run_point(wanted: Point, scale: Scale, _: Any) -> dict[str, Any]:
        computed.append(wanted)
        found = {"accuracy": {"mean": 0.5}, "honest": {"mse": {"mean": 0.01}}, "seconds": {}, "new": True}
        return {"settings": seal_of(wanted, scale), **found}

    points = list(points_of("dropout", scale))
    held = [{"settings": seal_of(item, scale), "seconds": {}} for item in points]
    held[1]["settings"] = "of another weight"
    file = tmp_path / "dropout@reduced.json"
    file.write_text(json.dumps({"points": held}))
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(computing, "run_point", run_point)
    monkeypatch.setattr(sys, "argv", ["paper", "--row", "dropout", "--data", "nowhere"])
    assert command.main() == 0
    assert computed == [points[1]]
    found = json.loads(file.read_text())["points"]
    assert [point.get("new", False) for point in found] == [False, True, False, False, False, False]


def test_a_point_of_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from dataclasses import replace

    from benchmarks.paper.points import Place, Point, run_point, seal_of
    from benchmarks.paper.scales import SCALES

    place = Place("nowhere", tmp_path)
    wanted, scale = Point("bottleneck", "paper", 0.05, 0), SCALES["reduced"]
    file = tmp_path / "points" / f"{wanted.name}.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"settings": seal_of(wanted, scale), "accuracy": 0.5}))
    found = run_point(wanted, scale, place)
    assert found is not None
    assert found["accuracy"] == 0.5
    for changed in (replace(scale, paper_weight=0.7), replace(scale, draw=2), replace(scale, training={"epochs": 12})):
        with pytest.raises(SpecError, match="choose another --out"):
            run_point(wanted, changed, place)
    decides_others = replace(scale, our_weights=(0.1, 0.7), settle=2.0, noise={"*": (0.05, 0.4)}, seeds=3)
    assert run_point(wanted, decides_others, place) == found


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
def test_points_in_processes_of_their_own_are_the_same_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from benchmarks.paper.computing import compute
    from benchmarks.paper.points import Place, Point
    from benchmarks.paper.scales import SCALES

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # spawned processes import the benchmark too
    small = {"channels": 4, "blocks": 1, "epochs": 1, "batch_size": 32}
    scale = replace(
        SCALES["reduced"],
        recipe="tiny",
        decoder=small,
        honest=(PlugInSpec(name="decoder", params=small), PlugInSpec(name="linear", params={})),
        training={"epochs": 1},
        limit=300,
    )
    points = [Point("bottleneck", "ours", noise_std, 0) for noise_std in (0.05, 0.3)]

    def computed(folder: str, workers: int) -> dict[Point, Any]:
        found = dict(compute(points, scale, Place("digits", tmp_path / folder), workers))
        for item in found.values():
            assert item is not None
            del item["seconds"]
            for attacker in item["paper"].values():
                del attacker["seconds"]
        return found

    together = computed("together", 2)
    assert together.keys() == set(points)
    assert together == computed("alone", 1)


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
