"""The benchmark of all defenses: what its rows differ in, and what its summary says of rows that are known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitveil.errors import SpecError

ROOT = Path(__file__).parents[2]
PICTURES = 400


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def side(accuracy: float, mse: float, status: str = "valid") -> dict[str, Any]:
    from benchmarks.harness import pack

    interval = {"mean": mse, "low": 0.9 * mse, "high": 1.1 * mse}
    return {
        "accuracy": {"mean": accuracy},
        **dict.fromkeys(("mse", "psnr", "ssim"), interval),
        "attack": {"name": "decoder"},
        "converged": True,
        "failed_controls": [],
        "edge_parameters": 1,
        "edge_multiply_adds": 1,
        "payload_bytes": 1,
        "status": status,
        "correct": pack((np.arange(PICTURES) < round(accuracy * PICTURES)).astype(float), 1),
        "error": pack(mse * np.linspace(0.5, 1.5, PICTURES)),
    }


def row(name: str, factor: float, status: str = "valid") -> dict[str, Any]:
    """CEM loses two points and errs `factor` times as much at equal accuracy."""
    preset, _, noise = name.partition("@")
    accuracy, mse = 0.9 - float(noise), 0.01 * 10 ** float(noise)
    moved = 0.01 * 10 ** (float(noise) + 0.02) * factor
    sides = {"without": side(accuracy, mse), "with": side(accuracy - 0.02, moved, status)}
    return {"row": name, "preset": preset, "level": float(noise), "recipe": "quick", "seed": 0, **sides}


def test_no_two_rows_are_the_same_experiment() -> None:
    from benchmarks.defenses_cifar10 import BOTH, defense_of, row_names

    built = [defense_of(name, kind, "quick") for name in row_names() for kind in BOTH]
    seen = {repr((item.mechanisms, item.penalties, item.plan, item.surgery)) for item in built}
    assert len(seen) == len(built)


def test_with_and_without_differ_in_the_penalty_alone() -> None:
    from benchmarks.defenses_cifar10 import defense_of, row_names

    for name in row_names():
        without, penalised = (defense_of(name, kind, "quick") for kind in ("without", "with"))
        assert without.mechanisms == penalised.mechanisms
        assert without.penalties == penalised.penalties[:-1]
        assert penalised.penalties[-1].name == "conditional_entropy"


def test_gains_are_those_of_valid_rows_at_equal_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses_cifar10, harness

    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    rows = [
        *(row(f"bottleneck@{noise}", 1.5) for noise in (0.05, 0.2)),
        *(row(f"hsic@{noise}", 9.0, "invalid") for noise in (0.025, 0.3)),
        *(row(f"vib@{noise}", 0.5) for noise in (0.05, 0.4)),
    ]
    defenses_cifar10.table(rows, "quick")
    summary = json.loads((tmp_path / "defenses_cifar10.json").read_text())["summary"]
    assert summary["gain_pct"]["bottleneck"] == pytest.approx(50.0, abs=1.0)
    assert summary["mean_gain_pct"] == pytest.approx((50.0 - 50.0) / 2, abs=1.0)
    assert (summary["presets_gained"], summary["presets_harmed"]) == (["bottleneck"], ["vib"])
    assert summary["invalid_rows"] == ["hsic@0.025", "hsic@0.3"]
    assert summary["presets"] == 2


def test_the_weight_rises_with_the_level_from_one_end_to_the_other() -> None:
    from benchmarks.defenses_cifar10 import LEVELS, QUIET, WEIGHTS, row_names, weight_of

    weights: dict[str, list[float]] = {}
    for name in row_names():
        weights.setdefault(name.partition("@")[0], []).append(weight_of(name))
    assert all((held[0], held[-1]) == WEIGHTS and held == sorted(held) for held in weights.values())
    assert [len(held) for held in weights.values()] == [len(LEVELS.get(name, QUIET)) for name in weights]


def test_a_side_of_a_row_is_computed_again_where_its_settings_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import defenses_cifar10 as table

    computed = list[str]()

    def trained(defense: Any, data: str, recipe: str, seed: int, out: Path) -> str:
        computed.append(out.name)
        return out.name

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "trained", trained)
    monkeypatch.setattr(table, "measure", lambda record, *_: {"measured": record, "failed_controls": []})
    name = "bottleneck@0.4"
    file = table.run_row(name, "nowhere", "quick", 0, tmp_path)
    assert computed == ["none", "bottleneck@0.4-without", "bottleneck@0.4-with-0.2"]
    assert table.run_row(name, "nowhere", "quick", 0, tmp_path) == file
    assert len(computed) == 3
    assert len(table.stored_rows("quick")) == 1
    monkeypatch.setattr(table, "WEIGHTS", (0.1, 0.5))
    with pytest.raises(SpecError, match=r"got others of bottleneck@0\.4: run them"):
        table.stored_rows("quick")
    table.run_row(name, "nowhere", "quick", 0, tmp_path)
    assert computed[3:] == ["none", "bottleneck@0.4-with-0.5"]
    found = json.loads(file.read_text())
    assert (found["without"]["measured"], found["with"]["measured"]) == (computed[1], computed[4])
    assert (found["weight"], table.stored_rows("quick")) == (0.5, [found])


def test_a_side_that_is_there_is_kept_when_the_other_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses_cifar10 as table

    def measure(record: str, *_: Any) -> dict[str, Any]:
        if "with-" in record:
            raise KeyboardInterrupt
        return {"failed_controls": []}

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "trained", lambda *arguments: arguments[-1].name)
    monkeypatch.setattr(table, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path)
    file = tmp_path / "bottleneck@0.4@quick.json"
    assert (table._state_of(file), table.stored_rows("quick")) == ("half", [])
    monkeypatch.setattr(table, "measure", lambda *_: {"failed_controls": [], "later": True})
    table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path)
    found = json.loads(file.read_text())
    assert ("later" in found["without"], found["with"]["later"], table._state_of(file)) == (False, True, "done")


def test_a_row_of_other_settings_is_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses_cifar10

    monkeypatch.setattr(defenses_cifar10, "FOLDER", tmp_path)
    file = tmp_path / "bottleneck@0.1@quick.json"
    sides = {"without": side(0.5, 0.1), "with": side(0.4, 0.2)}
    file.write_text(json.dumps(defenses_cifar10.settings_of("bottleneck@0.1", "quick", 0) | sides))
    assert defenses_cifar10.run_row("bottleneck@0.1", "nowhere", "quick", 0, tmp_path) == file
    with pytest.raises(SpecError, match="got other seed: remove it"):
        defenses_cifar10.run_row("bottleneck@0.1", "nowhere", "quick", 7, tmp_path)


def test_an_attacker_that_still_learns_is_given_more_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from benchmarks import defenses_cifar10

    efforts = list[int]()

    def audit_run(*_: Any, effort: int, **__: Any) -> Any:
        efforts.append(effort)
        raised = SimpleNamespace(name="budget_suffices", state="fail" if effort < 2 else "pass")
        return SimpleNamespace(controls=[raised], status="valid")

    monkeypatch.setattr(defenses_cifar10, "audit_run", audit_run)
    with pytest.raises(ValueError, match="empty"):  # no attack is on record, so that there is no worst of them
        defenses_cifar10.measure(SimpleNamespace(attacks=[], evaluation=None, name="run"), None, "quick")  # type: ignore[arg-type]
    assert efforts == [1, 2]
    assert not defenses_cifar10._is_learned({"failed_controls": ["budget_suffices"]})
    assert not defenses_cifar10._is_learned({"failed_controls": ["converged"], "effort": 2})
    assert defenses_cifar10._is_learned({"failed_controls": ["converged"], "effort": 4})
    assert defenses_cifar10._is_learned({"failed_controls": []})


def test_a_side_that_another_process_wrote_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses_cifar10 as table

    def measure(record: str, *_: Any) -> dict[str, Any]:
        if "with-" in record:  # an hour, in which the other side is written
            table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path, ["without"])
        return {"failed_controls": [], "record": record}

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "trained", lambda *arguments: arguments[-1].name)
    monkeypatch.setattr(table, "measure", measure)
    file = table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path, ["with"])
    assert table._state_of(file) == "done"


def test_a_side_that_still_learned_stays_until_it_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import defenses_cifar10 as table

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "trained", lambda *arguments: arguments[-1].name)
    monkeypatch.setattr(table, "measure", lambda *_: {"failed_controls": ["converged"], "effort": 2})
    table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path, ["without"])
    monkeypatch.setattr(table, "measure", lambda *_: {"failed_controls": []})
    file = table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path, ["with"])
    assert json.loads(file.read_text())["without"]["effort"] == 2
    table.run_row("bottleneck@0.4", "nowhere", "quick", 0, tmp_path)
    assert json.loads(file.read_text())["without"] == {"failed_controls": []}


def test_sides_of_other_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import defenses_cifar10 as table

    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "trained", lambda _, data, *__: data)
    monkeypatch.setattr(table, "measure", lambda record, *_: {"failed_controls": [], "data_digest": record})
    table.run_row("bottleneck@0.4", "A", "quick", 0, tmp_path, ["without"])
    with pytest.raises(SpecError, match="sides of the same pictures"):
        table.run_row("bottleneck@0.4", "B", "quick", 0, tmp_path, ["with"])
    table.run_row("bottleneck@0.4", "A", "quick", 0, tmp_path, ["with"])
    table.run_row("bottleneck@0.1", "B", "quick", 0, tmp_path)
    with pytest.raises(SpecError, match="2 digests"):
        table.stored_rows("quick")
