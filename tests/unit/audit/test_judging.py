"""The worst over attackers, the cheapest who reaches it, and what each control says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splitveil.audit import controls, run
from splitveil.audit.budget import on_half_the_epochs
from splitveil.audit.judging import cost, needs_of, worst_scores
from splitveil.audit.record import AuditRecord, ControlResult
from splitveil.audit.suites import load_suite
from splitveil.errors import MissingDataError, SpecError
from splitveil.experiments.attacking import attack_key
from splitveil.experiments.recipes import load_recipe
from splitveil.records import AttackResult, MetricResult, RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

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


def proof(mse: float, preset: str = "white_box", **yardsticks: float) -> controls.Proof:
    found = attack("decoder", mse)
    found = found.model_copy(update={"threat": ThreatModel.preset(preset).to_json()})
    return controls.Proof(found, {name: {"mse": metric(value)} for name, value in yardsticks.items()}, "the twin")


def test_an_attack_works_where_it_beats_all_controls() -> None:
    assert state(controls.attack_works(proof(0.01, **ALL))) == "pass"
    assert state(controls.attack_works(proof(0.03, **ALL))) == "fail"
    assert state(controls.attack_works(proof(0.01, ridge=0.03))) == "not applicable"
    assert state(controls.attack_works(None)) == "not applicable"


def test_where_nobody_has_labels_no_class_mean_is_asked_for() -> None:
    unlabelled = {name: value for name, value in ALL.items() if name != "class_mean"}
    assert state(controls.attack_works(proof(0.01, **unlabelled))) == "pass"
    assert state(controls.attack_works(proof(0.03, **unlabelled))) == "fail"


def test_an_attack_without_pairs_need_not_beat_ridge_regression() -> None:
    behind_ridge = {**ALL, "ridge": 0.01}
    assert state(controls.attack_works(proof(0.02, "pairs_only", **behind_ridge))) == "fail"
    assert state(controls.attack_works(proof(0.02, "query_free", **behind_ridge))) == "pass"
    assert state(controls.attack_works(proof(0.09, "query_free", **behind_ridge))) == "fail"


def test_the_attack_that_knows_the_defense_must_have_run() -> None:
    ran = [attack("decoder", 0.02)]
    assert state(controls.adaptive_tried(("decoder",), ran, {})) == "pass"
    refused = controls.adaptive_tried(("support",), ran, {"support": "needs pairs"})
    assert (refused.state, refused.detail) == ("not applicable", "support needs pairs")
    assert state(controls.adaptive_tried(("support",), ran, {})) == "not applicable"


def test_each_of_several_attacks_that_know_parts_of_a_defense_must_have_run() -> None:
    twins, both = ("shadow_bodies", "support"), [attack("shadow_bodies", 0.02), attack("support", 0.03)]
    tried = controls.adaptive_tried(twins, both, {})
    assert (tried.state, tried.detail) == ("pass", "shadow_bodies, support")
    partly = controls.adaptive_tried(twins, both[:1], {"support": "needs pairs"})
    assert (partly.state, partly.detail) == ("not applicable", "support needs pairs")


def test_an_attack_that_half_the_epochs_would_leave_far_behind_was_not_trained_for_long_enough() -> None:
    found = controls.budget_suffices(attack("decoder", 0.0100), metric(0.0106))
    assert (found.state, "0.25 dB" in found.detail) == ("pass", True)
    assert state(controls.budget_suffices(attack("decoder", 0.0100), metric(0.0111))) == "fail"
    assert state(controls.budget_suffices(attack("decoder", 0.0100), metric(0.0090))) == "pass"
    assert state(controls.budget_suffices(attack("optimise", 0.0100), None)) == "not applicable"


def test_half_the_epochs_that_an_earlier_audit_trained_are_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[PlugInSpec]()

    def fit(target: Any, spec: PlugInSpec, **_: Any) -> tuple[AttackResult, None, None]:
        trained.append(spec)
        return attack("decoder", 0.05), None, None

    monkeypatch.setattr(run, "fit_and_score", fit)
    target: Any = SimpleNamespace(seed=0, test=range(100), auxiliary_digest=lambda _: "")
    longer = attack("decoder", 0.02).model_copy(update={"attack": PlugInSpec(name="decoder", params={"epochs": 8})})
    short = PlugInSpec(name="decoder", params={"epochs": 4})
    found = run._on_half(target, longer, lambda _: Observer(), None)
    assert (found, trained) == (metric(0.05), [short])
    key = attack_key(short, THREAT, 0)
    update = {"attack": short, "key": key, "samples": "kept.safetensors"}
    (tmp_path / "kept.safetensors").touch()
    RunRecord(tmp_path).add_attack(attack("decoder", 0.03).model_copy(update=update))
    assert run._on_half(target, longer, lambda _: Observer(), tmp_path) == metric(0.03)
    assert len(trained) == 1
    target.auxiliary_digest = lambda _: "another data set"
    for _ in range(2):
        assert run._on_half(target, longer, lambda _: Observer(), tmp_path) == metric(0.05)
    assert len(trained) == 2, "what was learned from other pictures is not taken, what is kept of these is"


def test_effort_is_times_the_epochs() -> None:
    recipe = load_recipe("quick")
    longer = load_suite("standard", recipe.with_effort(2))
    for one, two in zip(load_suite("standard", recipe).entries, longer.entries, strict=True):
        assert on_half_the_epochs(two.attack) in (None, one.attack)
    assert recipe.with_effort(1) == recipe
    with pytest.raises(SpecError, match="expected an effort of at least 1, got 0"):
        recipe.with_effort(0)


def test_half_the_epochs_of_every_kind_of_training() -> None:
    assert on_half_the_epochs(PlugInSpec(name="decoder")) == PlugInSpec(name="decoder", params={"epochs": 25})
    shadow = PlugInSpec(name="shadow", params={"epochs": 8, "channels": 16})
    halved = {"epochs": 4, "channels": 16, "shadow_epochs": 15}
    assert on_half_the_epochs(shadow) == PlugInSpec(name="shadow", params=halved)
    hasty = PlugInSpec(name="shadow_bodies", params={"shadow_epochs": 1})
    assert on_half_the_epochs(hasty) is None
    pair = PlugInSpec(name="committee", params={"members": [{"epochs": 6}, {"channels": 8}]})
    half = on_half_the_epochs(pair)
    assert half is not None
    assert half.params == {"members": [{"epochs": 3}, {"channels": 8, "epochs": 25}]}
    for members in ([{"epochs": 1}, {"channels": 8}], [{"epochs": 6}, {"epochs": 7}]):
        assert on_half_the_epochs(PlugInSpec(name="committee", params={"members": members})) is None
    for name, params in (("linear", {}), ("optimise", {}), ("decoder", {"epochs": 1})):
        assert on_half_the_epochs(PlugInSpec(name=name, params=params)) is None


def test_what_an_attacker_took_because_it_was_granted_is_named() -> None:
    linear = attack("linear", 0.02)
    assert needs_of(linear) == ["pairs"]
    knowing = linear.model_copy(update={"facts": {**linear.facts, "moments": "noise-free releases"}})
    assert needs_of(knowing) == ["weights"]
    asking = attack("decoder", 0.02)
    asking = asking.model_copy(update={"facts": {**asking.facts, "fresh_noise": True}})
    assert needs_of(asking) == ["pairs", "query"]
    blind = attack("shadow_bodies", 0.02)
    judged = blind.model_copy(update={"facts": {**blind.facts, "held_out_pairs": 8}})
    assert (needs_of(blind), needs_of(judged)) == (["tail"], ["pairs", "tail"])
    assert cost(linear) < cost(asking)
    assert cost(linear) < cost(knowing)


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


def test_another_draw_of_the_noise_gives_the_same_score() -> None:
    best = attack("decoder", 0.02)
    found = controls.same_on_other_draws(best, (metric(0.0201), metric(0.0199)))
    assert state(found) == "pass"
    assert found.detail == "decoder 0.02000; 0.02010, 0.01990"
    for other in (0.03, 0.01):
        assert state(controls.same_on_other_draws(best, (metric(0.02), metric(other)))) == "fail"
    assert state(controls.same_on_other_draws(best, None)) == "not applicable"


def test_the_best_attack_must_have_converged() -> None:
    late = attack("optimise", 0.05, converged=False)
    assert state(controls.converged([attack("decoder", 0.02), late])) == "pass"
    assert "still learning: optimise" in controls.converged([attack("decoder", 0.02), late]).detail
    learning = controls.converged([attack("decoder", 0.02, converged=False)])
    assert learning.state == "fail"
    assert learning.detail.endswith("; audit again with twice the effort")
    assert state(controls.converged([attack("linear", 0.02, converged=None)])) == "not applicable"


def test_one_failed_control_makes_it_invalid_and_none_that_proves_makes_it_unproven() -> None:
    works, tried = (
        controls.attack_works(proof(0.01, **ALL)),
        controls.adaptive_tried(("decoder",), [attack("decoder", 0.02)], {}),
    )
    late = controls.converged([attack("decoder", 0.02, converged=False)])
    absent, untried = controls.attack_works(None), controls.adaptive_tried(("decoder",), [], {})
    assert controls.status_of([works, tried]) == "valid"
    assert controls.status_of([works, tried, late]) == "invalid"
    assert controls.status_of([absent, tried]) == controls.status_of([works, untried]) == "unproven"


def test_no_audit_is_one_error(tmp_path: Any) -> None:
    with pytest.raises(MissingDataError, match="run  splitveil audit"):
        AuditRecord.read(tmp_path)
