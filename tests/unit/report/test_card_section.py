"""A card on the page: two bands, attacks between, and a violated certificate that nobody overlooks."""

from __future__ import annotations

from pathlib import Path

from report_fixtures import MakeRun

from splitveil.bounds import Certificate, Estimate
from splitveil.certificates.card import Card, Rung
from splitveil.certificates.recording import record_of
from splitveil.records import RunRecord
from splitveil.report.build import build_report
from splitveil.report.cards import cards
from splitveil.report.runs import load_runs


def certified(record: RunRecord, *, violated: bool = False, void: bool = False) -> Card:
    told = (
        Certificate("capacity", "information", "<=", 630.2, "nats", ("noise <i>anew</i>",), "Shannon"),
        Estimate("blocks", "mse", ">=", 0.0068, "", (), "ours", rests_on="entropy <b>", low=0.0066, high=0.0069),
    )
    rungs = (
        Rung(
            kind="certificate", statement="capacity", quantity="information", bound=630.2, attack="channel",
            reached=7.8, limit=7.8, ratio=80.8, violated=violated, n=100,
        ),
        Rung(
            kind="estimate", statement="blocks", quantity="mse", bound=0.0068, attack="decoder",
            reached=0.02, limit=0.021, ratio=2.94, violated=void, n=100,
        ),
    )  # fmt: skip
    card = Card(
        run=str(record.path),
        observations=4,
        seed=0,
        statements=tuple(map(record_of, told)),
        sandwich=rungs,
        skipped={"fisher": "no <noise>"},
        status="violated" if violated else "held",
        elapsed_s=1.0,
    )
    card.write(record.path)
    return card


def test_runs_without_a_card_have_no_section(make_run: MakeRun, tmp_path: Path) -> None:
    assert "What no attacker can beat" not in build_report([make_run("none")], tmp_path / "page.html").read_text()


def test_certificates_and_estimates_stand_apart_and_nothing_is_taken_for_html(
    make_run: MakeRun, tmp_path: Path
) -> None:
    record = make_run("cem")
    made = certified(record)
    assert Card.read(record.path) == made
    [view] = cards(load_runs([record]))
    assert [row.name for row in view.certified] == ["capacity"]
    assert [row.name for row in view.estimated] == ["blocks"]
    assert view.estimated[0].limits == "0.0066 to 0.0069"
    page = build_report([record], tmp_path / "page.html").read_text()
    for text in ("Certified by", "Estimated by", "4 releases of a picture", "at most 630.2 nats", "entropy &lt;b&gt;"):
        assert text in page
    assert "noise &lt;i&gt;anew" in page
    assert "no &lt;noise&gt;" in page
    assert "VIOLATED" not in page


def test_what_was_beaten_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("cem")
    certified(record, violated=True, void=True)
    [view] = cards(load_runs([record]))
    assert [row.outcome for row in view.rungs] == ["fail", "void"]
    page = build_report([record], tmp_path / "page.html").read_text()
    assert page.count("VIOLATED") == 2
    assert "is void" in page
