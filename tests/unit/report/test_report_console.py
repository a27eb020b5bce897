"""Rows for the command line."""

from __future__ import annotations

import json

import pytest
from report_fixtures import MakeRun, attack_result

from splitveil.errors import InputError
from splitveil.report.console import summary_rows


def test_rows_are_plain_data_of_the_worst_attack(make_run: MakeRun) -> None:
    attacks = [
        attack_result(mse, key=key, samples=f"samples/{key}.safetensors")
        for mse, key in ((0.05, "decoder"), (0.03, "ridge"))
    ]
    rows = summary_rows([make_run("cem", accuracy=0.95, attacks=attacks), make_run("none", 0.002, 0.97)])
    assert json.loads(json.dumps(rows)) == rows
    none, cem = rows
    assert (none["defense"], none["run"], none["status"]) == ("none", "none", "valid")
    assert (cem["attack"], cem["mse_attack"], cem["mse"]) == ("ridge", "ridge", 0.03)
    assert cem["mse_low"] < cem["mse"] < cem["mse_high"]
    assert cem["psnr_db"] == pytest.approx(15.229, abs=1e-3)
    assert cem["worst_psnr_db"] > cem["psnr_db"]
    assert (cem["accuracy"], cem["payload_bytes"], cem["beats_controls"]) == (0.95, 512, True)


def test_what_is_missing_is_none(make_run: MakeRun) -> None:
    row = summary_rows([make_run("cem", None, None)])[0]
    for key in ("accuracy", "mse", "psnr_db", "ssim", "worst_psnr_db", "payload_bytes", "attack", "beats_controls"):
        assert row[key] is None
    assert row["status"] == "none"
    assert row["notes"] == ["not evaluated yet", "not attacked yet"]


def test_an_invalid_row_says_why(make_run: MakeRun) -> None:
    row = summary_rows([make_run("none", attacks=[attack_result(0.09, beats_controls=False)])])[0]
    assert row["status"] == "invalid"
    assert row["beats_controls"] is False
    assert "does not beat the mean image" in row["reason"]


def test_no_runs_are_refused() -> None:
    with pytest.raises(InputError):
        summary_rows([])
