"""Which scores may be read, and which attack speaks for a run."""

from __future__ import annotations

import pytest
from report_fixtures import MakeRun, attack_result

from splitveil.errors import SpecError
from splitveil.records import AttackResult
from splitveil.report.runs import load_runs
from splitveil.report.validity import checks, judge
from splitveil.specs import PlugInSpec


def statuses(records: list) -> dict[str, str]:
    runs = load_runs(records)
    return {run.label: judge(run, runs).status for run in runs}


def outcomes(records: list) -> list[str]:
    return [check.outcome for check in checks(load_runs(records))]


def test_a_sound_comparison_passes(make_run: MakeRun) -> None:
    records = [make_run("cem", 0.04), make_run("none", 0.002)]
    assert statuses(records) == {"none": "valid", "cem": "valid"}
    assert outcomes(records) == ["pass", "pass", "pass"]


def test_intervals_that_touch_are_unclear_and_not_invalid(make_run: MakeRun) -> None:
    records = [make_run("cem", 0.00199), make_run("none", 0.002)]
    assert statuses(records)["cem"] == "valid"
    assert outcomes(records) == ["pass", "unclear", "pass"]


def test_a_broken_attack_is_no_sign_that_the_undefended_model_is_worse(make_run: MakeRun) -> None:
    broken = make_run("cem", attacks=[attack_result(0.09, beats_controls=False)])
    assert outcomes([broken, make_run("none", 0.002)]) == ["pass", "unchecked", "fail"]


@pytest.mark.parametrize("difference", [{"source": "folder"}, {}])
def test_a_score_without_an_undefended_run_beside_it_is_unchecked(make_run: MakeRun, difference: dict) -> None:
    records = [make_run("cem", 0.04)] + ([make_run("none", 0.002, **difference)] if difference else [])
    assert statuses(records)["cem"] == "unchecked"


def test_the_undefended_run_of_the_same_seed_is_the_baseline(make_run: MakeRun) -> None:
    records = [
        make_run("none", 0.002, name="n0", seed=0),
        make_run("none", 0.05, name="n1", seed=1),
        make_run("cem", 0.04, name="c0", seed=0),
        make_run("cem", 0.04, name="c1", seed=1),
    ]
    found = statuses(records)
    assert (found["cem seed 0"], found["cem seed 1"]) == ("valid", "invalid")
    assert outcomes(records)[1] == "fail"


def strong(mse: float) -> AttackResult:
    made = attack_result(mse, key="decoder-strong", samples="samples/strong.safetensors")
    return made.model_copy(update={"attack": PlugInSpec(name="decoder", params={"epochs": 400})})


def test_other_attackers_on_the_undefended_model_are_no_baseline(make_run: MakeRun) -> None:
    """The error of a weak attacker over that of a strong one says nothing of the defense."""
    records = [make_run("cem", 0.045), make_run("none", attacks=[strong(0.002)])]
    assert statuses(records)["cem"] == "unchecked"
    assert outcomes(records) == ["pass", "unchecked", "pass"]
    records = [make_run("cem", 0.01), make_run("none", attacks=[strong(0.002), attack_result(0.02)])]
    assert statuses(records)["cem"] == "invalid"
    records = [make_run("cem", attacks=[strong(0.01), attack_result(0.03)]), make_run("none", 0.02)]
    assert statuses(records)["cem"] == "valid"
    assert outcomes(records)[1] == "pass"


def test_pictures_that_have_moved_keep_their_baseline(make_run: MakeRun) -> None:
    cem, none = make_run("cem", 0.04), make_run("none", 0.002)
    data = cem.spec.data.model_copy(update={"path": "/elsewhere", "stream": True})
    cem.write("spec.json", cem.spec.model_copy(update={"data": data}))
    assert statuses([cem, none])["cem"] == "valid"
    cem.write("spec.json", cem.spec.model_copy(update={"data": data.model_copy(update={"digest": "a" * 64})}))
    assert statuses([cem, none])["cem"] == "unchecked"


@pytest.mark.parametrize("change", [{"grants": None}, {"grants": "weights"}, {"observations": 0}, {"grants": [3]}])
def test_a_threat_model_of_another_form_is_one_error_with_a_cure(make_run: MakeRun, change: dict) -> None:
    attack = attack_result(0.01)
    record = make_run("cem", attacks=[attack.model_copy(update={"threat": {**attack.threat, **change}})])
    with pytest.raises(SpecError, match=r"attacks\.json.*attack again") as told:
        load_runs([record])
    assert next(iter(change)) in str(told.value)


def test_no_attack_is_neither_valid_nor_invalid(make_run: MakeRun) -> None:
    assert statuses([make_run("cem", None), make_run("none", 0.002)])["cem"] == "none"


def test_the_most_damaging_attack_speaks(make_run: MakeRun) -> None:
    weak, strong = (
        attack_result(mse, key=key, samples=f"samples/{key}.safetensors") for mse, key in ((0.05, "a"), (0.02, "b"))
    )
    run = load_runs([make_run("cem", attacks=[weak, strong])])[0]
    assert {name: finding.attack.key for name, finding in run.worst.items()} == dict.fromkeys(
        ("mse", "psnr", "ssim"), "b"
    )
    assert run.headline is not None
    assert run.headline.key == "b"


def test_an_attack_that_fails_its_controls_does_not_speak_for_one_that_passes(make_run: MakeRun) -> None:
    broken = attack_result(0.01, key="broken", beats_controls=False)
    sound = attack_result(0.03, key="sound")
    run = load_runs([make_run("none", attacks=[broken, sound])])[0]
    assert run.worst["mse"].attack.key == "sound"
    assert judge(run, [run]).status == "valid"


def test_runs_that_share_a_defense_are_told_apart(make_run: MakeRun) -> None:
    records = [
        make_run("cem", 0.04, name="a", params={"noise_std": 0.1, "weight": 4.0}),
        make_run("cem", 0.05, name="b", params={"noise_std": 0.1, "weight": 16.0}),
        make_run("cem", 0.06, name="c", params={"noise_std": 0.1, "weight": 16.0}, seed=1),
        make_run("gaussian", 0.02, name="d"),
        make_run("none", 0.002, name="e"),
        make_run("none", 0.003, name="f"),
    ]
    runs = load_runs(records)
    assert [run.label for run in runs] == [
        "none e",
        "none f",
        "gaussian",
        "cem weight=4.0",
        "cem weight=16.0 seed 0",
        "cem weight=16.0 seed 1",
    ]
    assert [run.colour for run in runs] == [0, 0, 1, 2, 3, 4]
