"""From runs to curves: what selects, what is scored, and what a failed run takes with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from splitveil.errors import InputError, OutputError
from splitveil.experiments.api import make_spec
from splitveil.experiments.attacking import attack_key
from splitveil.experiments.compare.analysis import analyse
from splitveil.experiments.compare.api import PLAN, Kind, claim_folder, compare
from splitveil.experiments.compare.plan import Cell, cell_of
from splitveil.experiments.compare.record import ComparisonRecord
from splitveil.experiments.compare.validity import CONTROLS
from splitveil.experiments.recipes import load_recipe
from splitveil.records import PREDICTIONS, AttackResult, MetricResult, RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

THREAT = ThreatModel.preset("white_box")
ATTACK = PlugInSpec(name="decoder")
PICTURES = 400
LEVELS = (0.1, 0.2, 0.4)


def cell(defense: str, seed: int, **params: Any) -> Cell:
    made = make_spec("digits", defense=PlugInSpec(name=defense, params=params), recipe=load_recipe("tiny"), seed=seed)
    return cell_of(made.model_copy(update={"data": made.data.model_copy(update={"digest": "a" * 64})}), ATTACK)


def metric(values: Any) -> MetricResult:
    mean, worst = float(np.mean(values)), float(np.min(values))
    figures = {"mean": mean, "low": mean, "high": mean, "level": 0.95, "worst": worst, "worst_index": 0}
    return MetricResult(unit="", safer="higher", n=len(values), **figures)


def finish(
    out: Path,
    done: Cell,
    accuracy: float,
    mse: float,
    *,
    val: tuple[float, float] | None = None,
    converged: bool | None = True,
    controls: Sequence[str] = CONTROLS,
    ahead: float = 1.0,
) -> None:
    """Leave what a run leaves that scores so on test, and so (or as `val` says) on validation pictures.

    The attacker errs by `ahead` less than its controls.
    """
    record = RunRecord(out / done.name)
    record.path.mkdir(parents=True)
    val_accuracy, val_mse = val or (accuracy, mse)
    (record.path / "events.jsonl").write_text(json.dumps({"event": "selected", "val_accuracy": val_accuracy}) + "\n")
    place = (np.arange(PICTURES) + 0.5) / PICTURES
    correct, error = (place < accuracy).astype(np.float32), (mse * (0.5 + place)).astype(np.float32)
    key = attack_key(ATTACK, THREAT, done.spec.seed)
    (record.path / "samples").mkdir()
    save_file({"accuracy": correct}, str(record.path / PREDICTIONS))
    save_file({"mse": error}, str(record.path / f"samples/{key}.safetensors"))
    record.add_attack(
        AttackResult(
            key=key,
            attack=ATTACK,
            threat=THREAT.to_json(),
            seed=done.spec.seed,
            metrics={"mse": metric(error), "psnr": metric(-10 * np.log10(error))},
            controls={name: {"mse": metric(error + ahead)} for name in controls},
            beats_controls=ahead > 0,
            converged=converged,
            facts={"best_val_mse": val_mse},
            samples=f"samples/{key}.safetensors",
            elapsed_s=1.0,
        )
    )


def curves(out: Path, *, seeds: int = 2, gap: float = 2.0, **left: Any) -> list[Cell]:
    """None, and two defenses at three levels of noise, of which cem has `gap` times the error."""
    cells = []
    for seed in range(seeds):
        cells.append(cell("none", seed))
        finish(out, cells[-1], 0.95, 0.005, **left)
        for defense, factor in (("gaussian", 1.0), ("cem", gap)):
            for number, level in enumerate(LEVELS):
                cells.append(cell(defense, seed, noise_std=level))
                finish(out, cells[-1], 0.9 - 0.1 * number, 0.01 * 2**number * factor, **left)
    return cells


def read(cells: Sequence[Cell], out: Path, failed: dict[str, str] | None = None) -> ComparisonRecord:
    return analyse(cells, out, threat=THREAT, recipe="tiny", failed=failed or {})


def test_a_defense_with_twice_the_error_lies_three_decibels_above(tmp_path: Path) -> None:
    record = read(curves(tmp_path), tmp_path)
    [delta] = record.deltas
    assert (delta.reference, delta.other, delta.verdict) == ("gaussian", "cem", "delta")
    assert delta.mse_db is not None
    assert delta.mse_db.mean == pytest.approx(10 * np.log10(2), abs=1e-5)
    assert delta.accuracy_range == pytest.approx((0.7, 0.9))
    assert delta.certain
    assert record.status == "valid"
    assert [point.controls for point in record.points] == [tuple(sorted(CONTROLS))] * 7


def test_a_parameter_that_is_a_word_makes_a_curve_of_its_own(tmp_path: Path) -> None:
    """Without it, the better covariance alone would stand for all, as more weight does for less."""
    cells = []
    for covariance, factor in (("diagonal", 1.0), ("full", 4.0)):
        for number, weight in enumerate((0.1, 0.4)):
            cells.append(cell("cem", 0, covariance=covariance, weight=weight))
            finish(tmp_path, cells[-1], 0.9 - 0.1 * number, 0.01 * 2**number * factor)
    record = read(cells, tmp_path)
    [delta] = record.deltas
    assert (delta.reference, delta.other) == ("cem covariance=diagonal", "cem covariance=full")
    assert delta.mse_db is not None
    assert delta.mse_db.mean == pytest.approx(10 * np.log10(4), abs=1e-5)
    assert all(point.selected for point in record.points)


@pytest.mark.parametrize(("ahead", "status"), [(-0.001, "invalid"), (0.0, "valid")])
def test_a_curve_whose_attacker_fails_its_controls_gives_no_number(tmp_path: Path, ahead: float, status: str) -> None:
    """Where a control is better the attacker is blind; where none is, the release may tell nothing."""
    cells = []
    for defense, factor, lead in (("gaussian", 1.0, 1.0), ("cem", 4.0, ahead), ("disco", 2.0, 1.0)):
        for number, level in enumerate(LEVELS):
            cells.append(cell(defense, 0, noise_std=level))
            finish(tmp_path, cells[-1], 0.9 - 0.1 * number, 0.01 * 2**number * factor, ahead=lead)
    cells.append(cell("none", 0))
    finish(tmp_path, cells[-1], 0.95, 0.005)
    record = read(cells, tmp_path)
    found = {(delta.reference, delta.other): delta for delta in record.deltas}
    assert found["gaussian", "cem"].verdict == found["cem", "disco"].verdict == "controls not beaten"
    assert found["gaussian", "cem"].mse_db is None
    assert found["gaussian", "disco"].mse_db is not None
    assert [point.selected for point in record.points] == [point.defense.name != "cem" for point in record.points]
    assert record.status == status
    assert ComparisonRecord.model_validate_json(record.model_dump_json()) == record


def test_a_point_whose_attacker_fails_its_controls_is_on_no_curve(tmp_path: Path) -> None:
    """The curve ends before it: its large error would have been the best of all."""
    cells = curves(tmp_path, seeds=1)
    lost = cell("cem", 0, noise_std=0.8)
    finish(tmp_path, lost, 0.95, 1.0, ahead=-0.1)
    record = read([*cells, lost], tmp_path)
    assert [point.selected for point in record.points if point.curve == "cem"] == [True, True, True, False]
    assert record.deltas[0].mse_db is not None
    assert record.deltas[0].mse_db.mean == pytest.approx(10 * np.log10(2), abs=1e-5)
    assert record.status == "valid"


def test_what_an_audit_lets_pass_takes_no_interval_from_controls(tmp_path: Path) -> None:
    strong = cell("cem", 0, noise_std=0.8)
    finish(tmp_path, strong, 0.7, 0.05, ahead=0.0)
    weak = cell("cem", 0, noise_std=0.4)
    finish(tmp_path, weak, 0.7, 0.05, ahead=-0.01)
    points = {point.label: point for point in read([strong, weak], tmp_path).points}
    assert points["cem noise_std=0.8"].tells_nothing
    assert not points["cem noise_std=0.4"].tells_nothing


@pytest.mark.parametrize("lost", ["samples/test.safetensors", "samples/decoder-"])
def test_scores_that_are_lost_or_damaged_are_one_error_with_a_cure(tmp_path: Path, lost: str) -> None:
    cells = curves(tmp_path, seeds=1)
    [file] = (tmp_path / cells[0].name).glob(f"{lost}*")
    for damage in (lambda: file.write_bytes(b"not this"), file.unlink):
        damage()
        with pytest.raises(InputError, match="again") as told:
            read(cells, tmp_path)
        assert str(file) in str(told.value)


def test_validation_alone_selects_whatever_the_test_scores_say(tmp_path: Path) -> None:
    """The middle point is beaten on validation pictures and the best of all on test pictures, and the other way."""
    for name, good, bad in (("honest", True, False), ("tempting", False, True)):
        out = tmp_path / name
        cells = [cell("gaussian", 0, noise_std=level) for level in LEVELS]
        ends = ((0.9, 0.01), (0.7, 0.04))
        finish(out, cells[0], *ends[0])
        finish(out, cells[2], *ends[1])
        strong, weak = (0.92, 0.05), (0.6, 0.005)
        finish(out, cells[1], *(strong if bad else weak), val=strong if good else weak)
        selected = [point.selected for point in read(cells, out).points]
        assert selected == ([False, True, False] if good else [True, False, True])


def test_runs_that_failed_take_their_seed_out_of_the_delta_and_no_more(tmp_path: Path) -> None:
    cells = curves(tmp_path)
    lost = [item for item in cells if item.spec.seed == 1 and item.spec.defense.params == {"noise_std": 0.2}][:1]
    record = read(cells, tmp_path, {item.name: "out of memory" for item in lost})
    assert record.deltas[0].seeds == 1
    assert [len(point.runs) for point in record.points] == [2, 2, 1, 2, 2, 2, 2]
    assert list(record.failed) == [lost[0].name]


def test_without_a_seed_that_all_points_share_the_rest_still_stands(tmp_path: Path) -> None:
    cells = curves(tmp_path)
    first = next(item for item in cells if item.spec.defense.name == "gaussian" and item.spec.seed == 0)
    second = next(item for item in cells if item.spec.defense.name == "cem" and item.spec.seed == 1)
    record = read(cells, tmp_path, {first.name: "killed", second.name: "killed"})
    assert [delta.verdict for delta in record.deltas] == ["no shared seed"]
    assert record.deltas[0].mse_db is None
    assert len(record.points) == 7
    assert record.status == "valid"


def test_no_finished_run_is_an_error(tmp_path: Path) -> None:
    cells = curves(tmp_path, seeds=1)
    with pytest.raises(InputError, match="got 7 that failed"):
        read(cells, tmp_path, {item.name: "killed" for item in cells})


@pytest.mark.parametrize(("converged", "share"), [(True, 1.0), (False, 0.0), (None, None)])
def test_the_share_of_converged_attackers_is_in_every_summary(
    tmp_path: Path, converged: bool | None, share: float | None
) -> None:
    record = read(curves(tmp_path, seeds=1, converged=converged), tmp_path)
    for summary in (record, *record.points, *record.deltas):
        assert summary.converged_share == share
    assert record.points[0].unconverged == (share == 0.0)


def test_controls_that_the_threat_model_forbids_are_missed(tmp_path: Path) -> None:
    record = read(curves(tmp_path, seeds=1, controls=("mean_image", "ridge")), tmp_path)
    assert record.status == "unproven"


@pytest.mark.parametrize(("kind", "other"), [("comparison", "plan"), ("plan", "comparison")])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, kind: Kind, other: Kind) -> None:
    def claim(as_kind: Kind) -> None:
        claim_folder(tmp_path, [cell("none", 0)], kind=as_kind, recipe="tiny", threat=THREAT)

    claim(kind)
    claim(kind)
    before = (tmp_path / PLAN).read_text()
    with pytest.raises(OutputError, match=f"earlier {other}, .* got a folder of a {kind}"):
        claim(other)
    assert (tmp_path / PLAN).read_text() == before
    older = {key: value for key, value in json.loads(before).items() if key != "kind"}
    (tmp_path / PLAN).write_text(json.dumps(older))
    (tmp_path / {"comparison": "comparison.json", "plan": "cuts.json"}[kind]).write_text("{}")
    with pytest.raises(OutputError, match=f"got a folder of a {kind}"):
        claim(other)
    claim(kind)


def test_a_folder_that_was_marked_before_marks_had_a_kind_goes_on(tmp_path: Path) -> None:
    (tmp_path / PLAN).write_text('{"recipe": "tiny", "threat": {}, "runs": []}')
    claim_folder(tmp_path, [cell("none", 0)], kind="plan", recipe="tiny", threat=THREAT)
    assert json.loads((tmp_path / PLAN).read_text())["kind"] == "plan"


@pytest.mark.parametrize("text", ["1. buy milk", "[]", '{"runs": []}'])
def test_a_plan_of_somebody_else_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(OutputError, match=PLAN):
        compare([], tmp_path, board=None, recipe="tiny")  # type: ignore[arg-type]
    assert (tmp_path / PLAN).read_text() == text
