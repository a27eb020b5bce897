"""The benchmark of the paper's table: what its kinds differ in, and what its summary says of rows that are known."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitveil.errors import SpecError, TrainingError
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
        "honest": {"attack": "decoder", "mse": {"mean": mse}, "beats_controls": True, "converged": True},
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


def published_of(rows: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is written of rows that hold these points."""
    from benchmarks import harness
    from benchmarks.paper import publishing

    monkeypatch.setattr(harness, "RESULTS", folder)
    (folder / "paper").mkdir()
    publishing.build([{"row": row, "scale": "reduced", "seeds": 1, "points": points} for row, points in rows.items()])
    found: dict[str, Any] = json.loads((folder / "paper" / "cifar10.json").read_text())
    return found


def published(row: str, points: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return published_of({row: points}, folder, monkeypatch)


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
    assert part["gain_honest_rows"] == part["gain_paper_protocol_rows"] == "1 of 1 have accuracies in common"
    low, high = part["gain_honest_limits_pct"]
    assert low < 25.0 < high
    assert part["pictures"] == PICTURES
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


def test_a_row_without_accuracies_in_common_is_counted_and_grades_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"without": (0.8, 0.010), "paper": (0.8, 0.0125), "ours": (0.8, 0.015)}
    apart = {"without": (0.8, 0.010), "paper": (0.6, 0.010), "ours": (0.5, 0.015)}
    rows = {"dropout": two_levels(good), "noise_nopeek": two_levels(apart)}
    part = published_of(rows, tmp_path, monkeypatch)["summary"]["reduced"]
    assert part["gain_paper_protocol_rows"] == "1 of 2 have accuracies in common"
    assert part["gain_paper_protocol_pct"]["train"] == pytest.approx(25.0, abs=1e-6)
    assert part["printed_gain_pct"]["train"] == pytest.approx(100 * (0.0129 / 0.0098 - 1)), "of the same rows"
    assert part["ours_over_paper_cem"]["of"] == "1 of 2 rows"
    assert part["ours_over_paper_cem"]["is"] == "equal accuracy", "no bound is averaged with what is known"
    assert part["ours_over_paper_cem"]["mean_db"] == pytest.approx(10 * np.log10(1.2), abs=0.05)


def test_no_number_is_drawn_from_an_attacker_that_the_controls_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"without": (0.8, 0.010), "paper": (0.8, 0.0125), "ours": (0.8, 0.015)}
    rows = {"dropout": two_levels(at), "noise_nopeek": two_levels(at)}
    rows["noise_nopeek"][3]["honest"]["beats_controls"] = False
    found = published_of(rows, tmp_path, monkeypatch)
    summary = found["summary"]
    assert summary["invalid_rows"] == ["noise_nopeek@reduced"]
    assert list(summary["reduced"]["gain_honest_db"]) == ["dropout"]
    from benchmarks.sections.paper import paper

    lines = paper(found).splitlines()
    assert {("INVALID" in line) for line in lines if line.startswith("| noise_nopeek")} == {True}
    assert {("INVALID" in line) for line in lines if line.startswith("| dropout")} == {False}
    assert "left out of gains: noise_nopeek@reduced" in paper(found)


def test_rows_of_other_settings_or_pictures_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.paper import publishing
    from benchmarks.paper.points import points_of, seal_of
    from benchmarks.paper.scales import SCALES

    monkeypatch.setattr(publishing, "FOLDER", tmp_path)

    def write(name: str, changed: str = "", digest: str | None = "a") -> None:
        seals = [seal_of(point, SCALES["reduced"]) for point in points_of(name, SCALES["reduced"])]
        points = [{"settings": seal + changed, "data_digest": digest} for seal in seals]
        record = {"row": name, "scale": "reduced", "points": points}
        (tmp_path / f"{name}@reduced.json").write_text(json.dumps(record))

    write("dropout")
    write("noise_nopeek", changed="of another weight")
    assert [row["row"] for row in publishing.stored()] == ["dropout"]
    assert "left out: noise_nopeek" in capsys.readouterr().out
    for digest in ("b", None):
        write("noise_nopeek", digest=digest)
        with pytest.raises(SpecError, match="of the same pictures, got 2 digests"):
            publishing.stored()


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
        return {"settings": seal_of(wanted, scale), "data_digest": "a", **found}

    points = list(points_of("dropout", scale))
    held = [{"settings": seal_of(item, scale), "seconds": {}, "data_digest": "a"} for item in points]
    held[1]["settings"] = "of another weight"
    file = tmp_path / "dropout@reduced.json"
    file.write_text(json.dumps({"points": held}))
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(computing, "run_point", run_point)
    monkeypatch.setattr(command, "digest_of", lambda *_: "a")
    monkeypatch.setattr(sys, "argv", ["paper", "--row", "dropout", "--data", "nowhere"])
    assert command.main() == 0
    assert computed == [points[1]]
    found = json.loads(file.read_text())["points"]
    assert [point.get("new", False) for point in found] == [False, True, False, False, False, False]


def test_a_point_that_fails_is_named_and_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.paper import __main__ as command
    from benchmarks.paper import computing
    from benchmarks.paper.points import Point
    from benchmarks.paper.scales import Scale

    computed = list[Point]()

    def run_point(wanted: Point, scale: Scale, _: Any) -> dict[str, Any]:
        computed.append(wanted)
        if len(computed) == 2:
            raise TrainingError("expected a finite loss, got nan")
        return {"accuracy": {"mean": 0.5}, "honest": {"mse": {"mean": 0.01}}}

    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(computing, "run_point", run_point)
    monkeypatch.setattr(command, "digest_of", lambda *_: "a")
    monkeypatch.setattr(sys, "argv", ["paper", "--row", "dropout", "--data", "nowhere"])
    assert command.main() == 1
    assert len(computed) == 6
    assert f"1 that failed: {computed[1].name}: expected a finite loss, got nan" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()), "no row without all of its points"


def test_the_table_is_of_cifar10(tmp_path: Path) -> None:
    from benchmarks.paper.__main__ import digest_of
    from benchmarks.paper.points import Place
    from benchmarks.paper.scales import SCALES

    with pytest.raises(SpecError, match="expected the pictures of CIFAR-10"):
        digest_of(SCALES["reduced"], Place("digits", tmp_path))


def test_a_point_of_other_settings_or_pictures_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from dataclasses import replace

    from benchmarks.paper.points import Place, Point, pictures_of, run_point, seal_of
    from benchmarks.paper.scales import SCALES

    place = Place("digits", tmp_path)
    wanted, scale = Point("bottleneck", "paper", 0.05, 0), replace(SCALES["reduced"], limit=300)
    file = tmp_path / "points" / f"{wanted.name}.json"
    file.parent.mkdir()
    digest = pictures_of(scale, place).splits.digest
    held = {"settings": seal_of(wanted, scale), "data_digest": digest, "accuracy": 0.5}
    file.write_text(json.dumps(held))
    found = run_point(wanted, scale, place)
    assert found is not None
    assert found["accuracy"] == 0.5
    for changed in (replace(scale, paper_weight=0.7), replace(scale, draw=3), replace(scale, training={"epochs": 12})):
        with pytest.raises(SpecError, match="choose another --out"):
            run_point(wanted, changed, place)
    decides_others = replace(scale, our_weights=(0.1, 0.7), settle=2.0, noise={"*": (0.05, 0.4)}, seeds={"*": 3})
    assert run_point(wanted, decides_others, place) == found
    file.write_text(json.dumps({**held, "data_digest": "of other pictures"}))
    with pytest.raises(SpecError, match="choose another --out"):
        run_point(wanted, scale, place)


def test_no_point_begins_when_the_time_is_up(tmp_path: Path) -> None:
    from benchmarks.paper.points import Place, Point, run_point
    from benchmarks.paper.scales import SCALES

    place = Place("digits", tmp_path, until=0.0)
    assert run_point(Point("bottleneck", "ours", 0.05, 0), SCALES["reduced"], place) is None
    assert not list(tmp_path.iterdir())


def test_steps_that_are_done_are_not_done_again_and_none_begins_when_the_time_is_up(tmp_path: Path) -> None:
    from benchmarks.paper.steps import Steps, TimeIsUpError

    calls = list[str]()

    def step(name: str) -> dict[str, int]:
        calls.append(name)
        return {name: len(calls)}

    assert Steps(tmp_path, "a", None)("train", lambda: step("train")) == {"train": 1}
    late = Steps(tmp_path, "a", 0.0)
    assert late("train", lambda: step("train")) == {"train": 1}
    with pytest.raises(TimeIsUpError):
        late("infer", lambda: step("infer"))
    assert calls == ["train"]
    assert list(late.seconds) == ["train"]
    assert Steps(tmp_path, "b", None)("train", lambda: step("train")) == {"train": 2}, "of other settings: done again"


def test_a_step_that_is_cut_off_keeps_its_time(tmp_path: Path) -> None:
    from benchmarks.paper.steps import Steps, TimeIsUpError

    def cut_off() -> None:
        time.sleep(0.02)
        raise TimeIsUpError

    with pytest.raises(TimeIsUpError):
        Steps(tmp_path, "a", None)("refine", cut_off)
    later = Steps(tmp_path, "a", None)
    assert later("refine", lambda: 1) == 1
    assert later.seconds["refine"] >= 0.02


def test_the_curves_of_known_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import harness
    from benchmarks.paper import curves
    from PIL import Image

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(curves, "PICTURE", tmp_path / "curves.png")
    (tmp_path / "paper").mkdir()

    def row_of(name: str, *points: dict[str, Any]) -> dict[str, Any]:
        return {"row": name, "scale": "reduced", "seeds": 1, "points": list(points)}

    base = row_of(
        "noise_arl", *(point(kind, noise, 0.8 - noise, noise) for kind in ("without", "paper") for noise in NOISE)
    )
    curves.publish_curves([base])
    assert not (tmp_path / "curves.png").exists(), "the table's row alone is no curve over lambda or cut"
    curves.publish_curves(
        [base, row_of("noise_arl-lambda8", *(point("paper", noise, 0.7 - noise, 2 * noise) for noise in NOISE))]
    )
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
            assert isinstance(item, dict)
            del item["seconds"]
            for attacker in item["paper"].values():
                del attacker["seconds"]
        return found

    together = computed("together", 2)
    assert together.keys() == set(points)
    assert together == computed("alone", 1)


@pytest.mark.long
def test_refining_a_decoder_keeps_it_near_the_pictures_and_goes_on_where_it_was(tmp_path: Path) -> None:
    from benchmarks.paper.adversarial import refine
    from benchmarks.paper.steps import TimeIsUpError

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
    from splitveil.training.checkpoint import CheckpointStore

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
    copied, kept = copy.deepcopy(decoder), CheckpointStore(tmp_path / "state.safetensors", "a")
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 16, "rng": Rng(4)}
    refined, in_training = refine(decoder, subject, pictures, **settings)
    after = refined.reconstruct(r)
    error = [(guess - x).square().mean().item() for guess in (before, after)]
    assert not torch.equal(before, after)
    assert error[1] < 1.2 * error[0]
    assert 0.5 * error[1] < in_training < 2 * error[0]

    rests = iter([None, TimeIsUpError()])

    def rest() -> None:
        if (stop := next(rests, None)) is not None:
            raise stop

    with pytest.raises(TimeIsUpError):
        refine(copy.deepcopy(copied), subject, pictures, **settings, store=kept, rest=rest)
    resumed, again = refine(copied, subject, pictures, **settings, store=kept)
    assert again == in_training
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in refined.state_dict().items())
