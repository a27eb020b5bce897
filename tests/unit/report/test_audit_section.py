"""An audit on the page: all attacks, the worst in bold, and the controls beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MakeRun, attack_result

from splitveil.audit.judging import worst_scores
from splitveil.audit.record import AuditRecord, ControlResult, Status
from splitveil.records import RunRecord
from splitveil.report.audits import audits
from splitveil.report.build import build_report
from splitveil.report.runs import load_runs


def audited(record: RunRecord, status: Status = "valid") -> AuditRecord:
    attacks = (attack_result(0.012, key="decoder-a"), attack_result(0.010, key="decoder-b"))
    state: Any = {"valid": "pass", "unproven": "not applicable", "invalid": "fail"}[status]
    made = AuditRecord(
        subject=str(record.path),
        suite="standard",
        budget="minutes",
        threat=attacks[0].threat,
        adaptive="decoder",
        seed=0,
        pictures=200,
        attacks=attacks,
        needs={attack.key: ("pairs",) for attack in attacks},
        skipped={"optimise": "needs weights"},
        worst=worst_scores(attacks),
        controls=(ControlResult(name="attack_works", title="The attack works", state=state, detail="it does <b>"),),
        status=status,
        queries=10,
        elapsed_s=1.0,
    )
    made.write(record.path)
    return made


def test_runs_without_an_audit_have_no_section(make_run: MakeRun, tmp_path: Path) -> None:
    page = build_report([make_run("none")], tmp_path / "page.html").read_text()
    assert "Everything that was tried" not in page


def test_the_most_damaging_attack_comes_first_and_is_marked(make_run: MakeRun, tmp_path: Path) -> None:
    record = make_run("none")
    made = audited(record)
    assert AuditRecord.read(record.path) == made
    [section] = audits(load_runs([record]))
    assert [row.cells[0].text for row in section.rows] == ["0.0100", "0.0120"]
    assert [row.cells[0].mark for row in section.rows] == ["best", ""]
    page = build_report([record], tmp_path / "page.html").read_text()
    for text in (
        "Everything that was tried",
        "suite standard, 200 pictures",
        "optimise (needs weights)",
        "holds pairs",
    ):
        assert text in page
    assert "it does &lt;b&gt;" in page


@pytest.mark.parametrize(("status", "numbers"), [("invalid", False), ("unproven", True)])
def test_an_invalid_audit_shows_the_word_and_no_number(make_run: MakeRun, status: Status, numbers: bool) -> None:
    record = make_run("none")
    audited(record, status)
    [section] = audits(load_runs([record]))
    assert section.status == status
    assert ("0.0100" in {cell.text for row in section.rows for cell in row.cells}) == numbers
