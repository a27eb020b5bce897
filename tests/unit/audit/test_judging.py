"""The worst over attackers, the cheapest who reaches it, and what each control says."""

from __future__ import annotations

from typing import Any

import pytest

from splitveil.audit import controls
from splitveil.audit.judging import cost, needs_of, worst_scores
from splitveil.audit.record import AuditRecord, ControlResult
from splitveil.errors import MissingDataError
from splitveil.records import AttackResult, MetricResult
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

THREAT = ThreatModel.preset("white_box")


def metric(mean: float, half: float = 0.001, safer: Any = "higher") -> MetricResult:
    return MetricResult(
        unit="", safer=safer, mean=mean, low=mean - half, high=mean + half, level=0.95, worst=mean, worst_index=0, n=100
    )


def attack(
    name: str,
    mse: float,
    psnr: float = 20.0,
    *,
    observations: int = 1,
    queries: int = 0,
    converged: bool | None = True,
    **control: float,
) -> AttackResult:
    threat = ThreatModel(THREAT.grants, observations=observations)
    return AttackResult(
        key=f"{name}-{observations}-{queries}",
        attack=PlugInSpec(name=name),
        threat=threat.to_json(),
        seed=0,
        metrics={"mse": metric(mse), "psnr": metric(psnr, 0.1, "lower")},
        controls={key: {"mse": metric(value)} for key, value in control.items()},
        beats_controls=True,
        converged=converged,
        facts={"queries": queries},
        samples="",
        elapsed_s=0.0,
    )


ALL = {"mean_image": 0.08, "class_mean": 0.06, "ridge": 0.03}


def test_each_metric_has_its_own_worst_attacker() -> None:
    found = worst_scores([attack("decoder", 0.02, 17.0), attack("ridge", 0.01, 16.0), attack("mean_image", 0.08, 11.0)])
    assert found["mse"].attack == "ridge-1-0"
    assert found["psnr"].attack == "decoder-1-0"
    assert found["psnr"].result.mean == 17.0


def test_the_cheapest_attacker_within_the_interval_is_named() -> None:
    """Sixteen releases reach 0.0200; one release reaches 0.0208, within the interval of 0.001; a free one does not."""
    many, one = attack("decoder", 0.0200, observations=16), attack("decoder", 0.0208)
    free = attack("mean_image", 0.08)
    worst = worst_scores([many, one, free])["mse"]
    assert (worst.attack, worst.cheapest) == (many.key, one.key)
    assert worst.cheapest_needs == ("pairs",)
    assert worst_scores([many, attack("decoder", 0.0212), free])["mse"].cheapest == many.key
    assert needs_of(many) == ["pairs", "16 releases of a picture"]
    assert cost(free) < cost(one) < cost(attack("decoder", 0.02, queries=5)) < cost(many)


def state(found: ControlResult) -> str:
    assert found.detail
    return found.state


def test_an_attack_works_where_it_beats_all_controls() -> None:
    assert state(controls.attack_works([attack("decoder", 0.01, **ALL)], "the twin")) == "pass"
    assert state(controls.attack_works([attack("decoder", 0.03, **ALL)], "the twin")) == "fail"
    assert state(controls.attack_works([attack("decoder", 0.01, ridge=0.03)], "the twin")) == "not applicable"
    assert state(controls.attack_works([], "the twin")) == "not applicable"


def test_a_control_that_does_better_on_the_subject_unmasks_a_weak_attack() -> None:
    assert state(controls.no_worse_than_controls([attack("decoder", 0.0302, **ALL)])) == "pass"  # intervals touch
    found = controls.no_worse_than_controls([attack("decoder", 0.05, **ALL)])
    assert state(found) == "fail"
    assert "ridge regression 0.0300" in found.detail
    assert state(controls.no_worse_than_controls([attack("decoder", 0.05)])) == "not applicable"


@pytest.mark.parametrize("control", [controls.undefended_is_worst, controls.not_above_reference])
def test_leaking_more_than_what_hides_nothing_fails(control: Any) -> None:
    ours = [attack("decoder", 0.02)]
    assert state(control(ours, [attack("decoder", 0.01)])) == "pass"
    assert state(control(ours, [attack("decoder", 0.0215)])) == "pass"  # intervals touch
    assert state(control(ours, [attack("decoder", 0.03)])) == "fail"
    assert state(control(ours, [])) == "not applicable"


def test_leakage_may_not_grow_with_noise() -> None:
    assert state(controls.less_with_noise(metric(0.02), metric(0.03))) == "pass"
    assert state(controls.less_with_noise(metric(0.02), metric(0.01))) == "fail"
    assert state(controls.less_with_noise(None, None)) == "not applicable"


def test_the_best_attack_must_have_converged() -> None:
    late = attack("optimise", 0.05, converged=False)
    assert state(controls.converged([attack("decoder", 0.02), late])) == "pass"
    assert "still learning: optimise" in controls.converged([attack("decoder", 0.02), late]).detail
    assert state(controls.converged([attack("decoder", 0.02, converged=False)])) == "fail"
    assert state(controls.converged([attack("linear", 0.02, converged=None)])) == "not applicable"


def test_one_failed_control_makes_it_invalid_and_none_that_proves_makes_it_unproven() -> None:
    works = controls.attack_works([attack("decoder", 0.01, **ALL)], "the twin")
    late = controls.converged([attack("decoder", 0.02, converged=False)])
    absent = controls.attack_works([], "the twin")
    assert controls.status_of([works]) == "valid"
    assert controls.status_of([works, late]) == "invalid"
    assert controls.status_of([absent]) == "unproven"


def test_no_audit_is_one_error(tmp_path: Any) -> None:
    with pytest.raises(MissingDataError, match="run  splitveil audit"):
        AuditRecord.read(tmp_path)
