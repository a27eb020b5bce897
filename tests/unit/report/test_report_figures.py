"""What the page draws: every number on it equals the record's, and what is missing is not drawn."""

from __future__ import annotations

import csv
import html as markup
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fixtures import MakeRun, attack_result, metric
from safetensors.numpy import save_file
from test_audit_section import audited
from test_build_report import HOSTILE, build, three
from test_card_section import certified
from typer.testing import CliRunner

from splitveil.audit.people_record import PeopleRecord, Person
from splitveil.audit.record import AuditRecord
from splitveil.certificates.card import Card
from splitveil.cli import app
from splitveil.experiments.attacking import attack_key
from splitveil.experiments.recipes import load_recipe
from splitveil.records import PROJECTIONS, AttackResult, RunRecord
from splitveil.report.audits import audits
from splitveil.report.build import build_report
from splitveil.report.cards import cards
from splitveil.report.caveats import caveats
from splitveil.report.console import COLUMNS, summary_rows
from splitveil.report.headline import Headline, headline
from splitveil.report.lattice import lattices
from splitveil.report.ledger import ledger
from splitveil.report.lineplot import Line, line_plot
from splitveil.report.people import people
from splitveil.report.planes import planes
from splitveil.report.provenance import provenance, report_command
from splitveil.report.runs import Run, load_runs
from splitveil.report.validity import checks, judge
from splitveil.report.wording import fixed, percent
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel


def said(runs: list[Run]) -> Headline:
    found = headline(runs, [judge(run, runs) for run in runs], audits(runs), cards(runs))
    assert found is not None
    return found


def test_the_number_of_the_page_is_the_ratio_of_errors(make_run: MakeRun, tmp_path: Path) -> None:
    records = three(make_run)
    found = said(load_runs(records))
    assert found.number == "19.0×"  # noqa: RUF001 - 0.038 over 0.002
    assert "95.1 % in place of 97.2 %" in found.sentence
    assert "cem" in found.sentence
    assert not found.mark
    _, page = build(records, tmp_path)
    assert found.sentence in page.words
    assert found.number in page.words


def test_a_run_that_is_not_proven_is_not_praised(make_run: MakeRun) -> None:
    none, cem = make_run("none", 0.002), make_run("cem", 0.038)
    assert said(load_runs([cem])).mark == "unsure"
    assert said(load_runs([none])).number == "27.0 dB"
    audited(cem, "invalid")
    assert said(load_runs([none, cem])).number == "INVALID"
    audited(cem)
    certified(cem, violated=True)
    assert said(load_runs([none, cem])).mark == "invalid"
    certified(cem)
    assert said(load_runs([none, cem])).number == "19.0×"  # noqa: RUF001


def test_the_number_of_the_page_compares_the_same_attack(make_run: MakeRun) -> None:
    """An attack that the undefended run was not met with is named, and the number marked, where it errs less."""

    def other(mse: float) -> AttackResult:
        made = attack_result(mse, key="decoder-other", samples="samples/other.safetensors")
        return made.model_copy(update={"attack": PlugInSpec(name="decoder", params={"epochs": 400})})

    none, cem = make_run("none", attacks=[other(0.004)]), make_run("cem", 0.045)
    found = said(load_runs([none, cem]))
    assert (found.number, found.mark) == ("13.5 dB", "unsure")
    assert "with the same parameters, threat model and seed" in found.sentence
    none = make_run("none", 0.002, name="n")
    cem = make_run("cem", name="c", attacks=[other(0.02), attack_result(0.038)])
    found = said(load_runs([none, cem]))
    assert (found.number, found.mark) == ("19.0×", "unsure")  # noqa: RUF001
    assert "epochs=400" in found.sentence
    assert "errs less on cem" in found.sentence
    none = make_run("none", name="sound", attacks=[other(0.001), attack_result(0.002)])
    found = said(load_runs([none, make_run("cem", 0.038, name="again")]))
    assert (found.number, found.mark) == ("19.0×", "")  # noqa: RUF001


def test_intervals_that_touch_show_no_difference(make_run: MakeRun) -> None:
    runs = load_runs([make_run("none", 0.002), make_run("cem", 0.00205)])
    assert said(runs).mark == "unsure"
    assert "their intervals touch" in said(runs).sentence
    broken = [make_run("none", 0.09, name="b", attacks=[attack_result(0.09, beats_controls=False)])]
    assert said(load_runs([*broken, make_run("cem", 0.09, name="c")])).number == "INVALID"
    runs = load_runs([make_run("other", None)])
    assert headline(runs, [judge(run, runs) for run in runs], [], []) is None


def lattice_of(record: RunRecord, needs: dict[str, tuple[str, ...]], errors: dict[str, float]) -> AuditRecord:
    made = audited(record)
    attacks = tuple(attack_result(errors[key], key=key) for key in needs)
    made = made.model_copy(update={"attacks": attacks, "needs": needs})
    made.write(record.path)
    return made


def test_the_lattice_gives_each_attacker_every_attack_that_needs_less(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("none")
    needs = {"a": ("pairs",), "b": ("query", "weights"), "c": ("pairs", "query", "weights")}
    errors = {"a": 0.03, "b": 0.02, "c": 0.01}
    lattice_of(record, needs, errors)
    runs = load_runs([record])
    [found] = lattices(runs, [judge(run, runs) for run in runs])
    assert found.holdings == ("pairs", "query and weights", "pairs, query and weights")
    assert [[cell.mse if cell else None for cell in row.cells] for row in found.rows] == [
        [None, None, "0.0100"],
        [None, "0.0200", "0.0200"],
        ["0.0300", None, "0.0300"],
    ]
    assert [cell.mse for cell in found.worst if cell] == ["0.0300", "0.0200", "0.0100"]
    mean_image = 0.071  # of the fixture's controls
    for row, key in zip(found.rows, ("c", "b", "a"), strict=True):
        assert {cell.heat for cell in row.cells if cell} == {round(100 * (1 - errors[key] / mean_image))}
    html, page = build([record], tmp_path)
    assert html.count('<td class="heat none">') == 4
    assert "What it takes" in page.words


def test_the_lattice_of_an_invalid_audit_holds_no_number(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("none")
    audited(record, "invalid")
    html, _ = build([record], tmp_path)
    table = re.search(r'<table class="lattice".*?</table>', html, re.DOTALL)
    assert table is not None
    assert "0.01" not in table[0]
    assert "INVALID" in table[0]


def test_bars_of_the_sandwich_are_logarithms_of_ratios(make_run: MakeRun) -> None:
    record = make_run("cem")
    card = certified(record)
    [view] = cards(load_runs([record]))
    assert view.decades == 2  # 80.8 lies below 100
    for row, rung in zip(view.rungs, card.sandwich, strict=True):
        assert rung.ratio is not None
        assert row.place == pytest.approx(100 * math.log10(rung.ratio) / 2, abs=0.06)
    assert [row.certified for row in view.rungs] == [True, False]
    below = [rung.model_copy(update={"ratio": 0.5, "violated": True}) for rung in card.sandwich]
    card.model_copy(update={"sandwich": tuple(below)}).write(record.path)
    [view] = cards(load_runs([record]))
    assert [row.place for row in view.rungs] == [0.0, 0.0]


def looked_for(record: RunRecord) -> PeopleRecord:
    found = metric("accuracy", 0.41, spread=0.1).model_copy(update={"safer": "lower"})
    made = PeopleRecord(
        subject=str(record.path),
        attack=PlugInSpec(name="identify"),
        threat={"grants": ["labels", "pairs", "query"]},
        seed=0,
        gallery=1,
        galleries=(8, 8),
        found=found,
        by_person=found,
        ceiling=found.model_copy(update={"mean": 0.93}),
        chance=0.125,
        people=(Person(name=HOSTILE, found=0.9, pictures=10), Person(name="b", found=0.1, pictures=9)),
        elapsed_s=1.0,
    )
    made.write(record.path)
    return made


def test_people_stand_between_chance_and_raw_pictures(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("cem")
    made = looked_for(record)
    assert PeopleRecord.read(record.path) == made
    [row] = people(load_runs([record]))
    assert (row.found, row.chance, row.ceiling) == ("41.0", "12.5", "93.0")
    assert (row.place, row.low, row.high) == pytest.approx((41.0, 36.9, 45.1))
    assert (row.chance_place, row.ceiling_place) == (12.5, 93.0)
    html, page = build([record], tmp_path)
    assert "Who is recognised" in page.words
    assert "36.9 to 45.1" in page.words
    assert html.count("<script") == 1


def project(record: RunRecord, **changes: Any) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(20) % 4
    before = np.column_stack([labels, random.standard_normal(20)]).astype(np.float32)
    tensors = {
        "labels": labels.astype(np.int64),
        "before": before,
        "after": before + random.standard_normal((20, 2)).astype(np.float32),
        "before_shares": np.array([0.5, 0.25], np.float32),
        "after_shares": np.array([0.3, 0.2], np.float32),
        "same_axes": np.array([1]),
        **changes,
    }
    save_file(tensors, str(record.path / PROJECTIONS))
    return tensors


def test_points_of_features_lie_where_the_record_says(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("cem")
    tensors = project(record)
    [view], notes = planes(load_runs([record]))
    assert not notes
    circles = [np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', plane.svg), dtype=float) for plane in view.planes]
    drawn = np.concatenate(circles) * [1, -1]
    meant = np.concatenate([tensors["before"], tensors["after"]])
    scale = np.ptp(drawn, axis=0) / np.ptp(meant, axis=0)
    assert scale[0] == pytest.approx(scale[1], rel=0.01)  # one frame and one scale for both
    assert np.allclose(drawn - drawn[0], (meant - meant[0]) * scale, atol=0.11)
    assert drawn.min() >= -300
    total = ((tensors["before"] - tensors["before"].mean(0)) ** 2).sum()
    between = sum(
        (tensors["labels"] == k).sum()
        * ((tensors["before"][tensors["labels"] == k].mean(0) - tensors["before"].mean(0)) ** 2).sum()
        for k in range(4)
    )
    assert f"50.0 and 25.0 % of the variance; {percent(float(between / total))} % of what" in view.planes[0].said
    _, page = build([record], tmp_path)
    assert "What crosses the wire" in page.words


@pytest.mark.parametrize(
    "changes",
    [
        {"before": np.zeros((3, 2), np.float32)},
        {"after": np.full((20, 2), np.nan, np.float32)},
        {"labels": np.zeros((20, 1), np.int64)},
        {"same_axes": np.zeros((2,), np.int64)},
    ],
)
def test_points_of_another_form_are_named_and_left_out(
    make_run: MakeRun, tmp_path: Path, changes: dict[str, np.ndarray]
) -> None:
    record = make_run("cem")
    project(record, **changes)
    drawn, notes = planes(load_runs([record]))
    assert not drawn
    assert "expected finite" in notes[0]
    assert "expected finite" in build([record], tmp_path)[1].words


def test_equal_points_and_unknown_classes_are_drawn(make_run: MakeRun) -> None:
    record = make_run("cem", class_names=["0"])
    project(record, before=np.zeros((20, 2), np.float32), after=np.zeros((20, 2), np.float32))
    [view], _ = planes(load_runs([record]))
    assert [name for name, _, _ in view.classes] == ["0", "1", "2", "3"]


def tracks(svg: str) -> dict[str, Any]:
    found = re.search(r'data-tracks="([^"]*)"', svg)
    assert found is not None
    data: dict[str, Any] = json.loads(markup.unescape(found[1]))
    return data


def test_a_cursor_says_the_values_of_the_curve(make_run: MakeRun) -> None:
    values = (1.0, float("nan"), 0.25, 0.125)
    data = tracks(str(line_plot([Line(2, values, 0, "loss <b>")], said="Loss: x")))
    assert data["step"] == [1, 2, 3, 4]
    [line] = data["lines"]
    assert (line["name"], line["v"]) == ("loss <b>", ["1", None, "0.25", "0.125"])
    heights = [y for y in line["y"] if y is not None]
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx(0.75 / 0.125, rel=0.02)
    assert data["x"] == sorted(data["x"])
    many = tracks(str(line_plot([Line(1, tuple(range(1000)))], said="x")))
    assert len(many["step"]) == 60
    assert many["step"][-1] == 1000
    assert many["lines"][0]["v"][-1] == "999"


def test_points_of_the_scatter_say_their_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    html, _ = build(three(make_run), tmp_path)
    tips = [markup.unescape(text) for text in re.findall(r'<circle class="hit[^>]*data-tip="([^"]*)"', html)]
    assert [tip.split("\n")[0] for tip in tips] == ["none", "gaussian", "cem"]
    assert "MSE 0.0380 (0.0369 to 0.0391)" in tips[2]
    assert html.count('tabindex="0" aria-label="none') == 1  # one stop of the tab key for the whole plot


def test_the_ledger_ends_where_training_ended(make_run: MakeRun) -> None:
    cem, none = make_run("cem", weight=2.0), make_run("none", 0.002)
    certified(cem)
    found = ledger(load_runs([cem, none]))
    assert found is not None
    assert [label for label, _ in found.runs] == ["cem"]
    rows = dict(found.rows)
    facts = load_runs([cem])[0].epochs[-1]["facts"]["conditional_entropy"]
    assert float(rows["held out, mean"][0]) == pytest.approx(facts["held_out_nats"], rel=1e-3)
    assert rows["certified, at most"] == ("630.2",)
    assert "noise" not in rows  # nobody recorded it
    assert ledger(load_runs([none])) is None


def test_the_best_recovered_come_first(make_run: MakeRun, tmp_path: Path) -> None:
    html, _ = build(three(make_run)[:1], tmp_path)
    sheet = re.search(r'<table class="sheet">.*?</table>', html, re.DOTALL)
    assert sheet is not None
    levels = [float(text) for text in re.findall(r"</span><small>([\d.]+)</small>", sheet[0])]
    assert len(levels) == 12
    assert levels == sorted(levels, reverse=True)
    orders = [tuple(map(int, text.split(","))) for text in re.findall(r'<option value="([\d,]+)"', html)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    originals = re.findall(r'alt="Original, test picture (\d+),', sheet[0])
    assert [originals[place] for place in orders[-1]] == [str(number) for number in range(12)]


def test_what_was_assumed_and_what_failed_stands_together(make_run: MakeRun, tmp_path: Path) -> None:
    cem = make_run("cem", attacks=[attack_result(0.03).model_copy(update={"converged": False})])
    audited(cem, "invalid")
    certified(cem, violated=True, void=True)
    runs = load_runs([cem])
    found = caveats(runs, [judge(run, runs) for run in runs], checks(runs), audits(runs), cards(runs))
    failed = [item.text for item in found.failed]
    assert "The attack works: it does <b>" in failed
    assert "channel beat the bound capacity on information." in failed
    assert [item.text for item in found.assumed] == ["noise <i>anew</i>", "estimate: entropy <b>"]
    left = " ".join(item.text for item in found.open)
    for text in ("still learned", "optimise was not run: needs weights", "Not said by fisher"):
        assert text in left
    assert "noise <i>anew</i>" in build([cem], tmp_path)[1].text


def test_commands_make_all_of_it_again(make_run: MakeRun) -> None:
    white = {"grants": ["architecture", "labels", "pairs", "query", "tail", "weights"], "observations": 1}
    attack = attack_result(0.01).model_copy(update={"threat": white, "seed": 3})
    cem, other = make_run("cem", attacks=[attack]), make_run("gaussian", name="it's")
    made = audited(cem)
    made.model_copy(update={"threat": {**white, "observations": 4}}).write(cem.path)
    certified(cem)
    looked_for(cem)
    runs = {run.label: run for run in load_runs([cem, other])}
    assert provenance(runs["cem"]).commands == (
        "splitveil train --spec cem/spec.json --out cem-again",
        "splitveil attack cem-again --attack decoder --recipe none -p epochs=20 --seed 3",
        "splitveil audit cem-again --suite standard --observations 4 --people",
        "splitveil certify cem-again --observations 4",
    )
    made.write(cem.path)
    assert "no preset grants" in provenance(runs["cem"]).commands[2]
    assert "'it'\"'\"'s-again'" in report_command(list(runs.values()))


@pytest.mark.parametrize(("params", "taken"), [({"epochs": 1}, True), (dict(load_recipe("tiny").attack.params), False)])
def test_the_command_of_an_attack_runs_the_recorded_one(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], taken: bool
) -> None:
    """A recipe must not fill in what the recorded parameters left to the attack's defaults."""
    recorded = PlugInSpec(name="decoder", params=params)
    threat = ThreatModel.preset("black_box")
    made = attack_result(0.01).model_copy(update={"attack": recorded, "threat": threat.to_json(), "seed": 3})
    record = make_run("cem", attacks=[made])
    command = provenance(load_runs([record])[0]).commands[1]
    assert ("--recipe none" in command) == taken
    met: dict[str, Any] = {}

    def attack_run(_: RunRecord, attack: PlugInSpec, **more: Any) -> AttackResult:
        met.update(attack=attack, **more)
        return made

    monkeypatch.setattr("splitveil.experiments.attacking.attack_run", attack_run)
    words = [word.replace("cem-again", str(record.path)) for word in shlex.split(command)[1:]]
    ended = CliRunner().invoke(app, [*words, "--json"])
    assert ended.exception is None
    assert attack_key(met["attack"], met["threat"], met["seed"]) == attack_key(recorded, threat, 3)


def test_json_and_csv_hold_what_the_page_shows(make_run: MakeRun, tmp_path: Path) -> None:
    records = three(make_run)
    audited(records[0])
    card = certified(records[0])
    looked_for(records[0])
    page = build_report(records, tmp_path / "report.html")
    document = json.loads(page.with_suffix(".json").read_text())
    rows = summary_rows(records)
    assert document["runs"] == rows
    assert document["headline"]["number"] == "19.0×"  # noqa: RUF001
    told = {key: value for key, value in document["certificates"][0].items() if key != "defense"}
    assert Card.model_validate(told) == card
    assert [item["defense"] for item in document["audits"]] == ["cem"]
    assert document["people"][0]["chance"] == 0.125
    assert {item["key"] for item in document["attacks"]} == {"decoder"}
    with page.with_suffix(".csv").open() as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    assert [float(row["mse"]) for row in table] == [row["mse"] for row in rows]
    assert all(tuple(row) == COLUMNS for row in rows)


def test_text_of_the_csv_is_no_formula(make_run: MakeRun, tmp_path: Path) -> None:
    page = build_report([make_run("=1+1", 0.02)], tmp_path / "report.html")
    with page.with_suffix(".csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["defense"] == "'=1+1"
    assert fixed(float(row["mse"]), 4) == "0.0200"
