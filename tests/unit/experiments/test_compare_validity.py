"""The controls of a comparison fail where they must."""

from __future__ import annotations

from typing import Any

import pytest

from splitveil.experiments.compare.record import Interval, PointRecord, ValidityCheck
from splitveil.experiments.compare.validity import CONTROLS, check_points, status_of
from splitveil.specs import PlugInSpec


def point(
    name: str,
    mse: float,
    *,
    beats: bool = True,
    width: float = 0.001,
    controls: tuple[str, ...] = CONTROLS,
    **params: Any,
) -> PointRecord:
    return PointRecord(
        defense=PlugInSpec(name=name, params=params),
        runs={0: name},
        val_accuracy=0.9,
        val_mse=mse,
        selected=True,
        accuracy=Interval(mean=0.9, low=0.88, high=0.92),
        mse=Interval(mean=mse, low=mse - width, high=mse + width),
        psnr_db=20.0,
        converged_share=1.0,
        controls=controls,
        beats_controls=beats,
    )


def outcomes(*points: PointRecord) -> list[str]:
    return [check.outcome for check in check_points(points)]


SOUND = (point("none", 0.01), point("gaussian", 0.02, noise_std=0.1), point("gaussian", 0.03, noise_std=0.2))


def test_a_sound_comparison_passes() -> None:
    assert outcomes(*SOUND) == ["pass", "pass", "pass", "pass"]


def test_an_attacker_that_is_blind_on_the_undefended_model_proves_nothing() -> None:
    assert outcomes(point("none", 0.01, beats=False), *SOUND[1:])[0] == "fail"
    assert outcomes(*SOUND[1:])[0] == "unchecked"


def test_an_attacker_that_no_control_stood_beside_proves_nothing() -> None:
    """Without labels there are no class means: what was not held against them cannot have beaten them."""
    checks = check_points((point("none", 0.01, controls=("mean_image", "ridge")), *SOUND[1:]))
    assert checks[0].outcome == "unchecked"
    assert "class_mean" in checks[0].detail
    assert status_of(checks) == "unproven"
    assert status_of(check_points(SOUND)) == "valid"


@pytest.mark.parametrize(("mse", "outcome"), [(0.005, "fail"), (0.0085, "pass"), (0.02, "pass")])
def test_a_defense_that_leaks_more_than_none_is_wrong_beyond_the_intervals(mse: float, outcome: str) -> None:
    assert outcomes(SOUND[0], point("cem", mse))[1] == outcome


@pytest.mark.parametrize(("mse", "outcome"), [(0.015, "fail"), (0.0185, "pass"), (0.03, "pass")])
def test_more_noise_that_leaks_more_is_wrong_beyond_the_intervals(mse: float, outcome: str) -> None:
    assert outcomes(*SOUND[:2], point("gaussian", mse, noise_std=0.2))[2] == outcome


def test_only_points_that_differ_in_noise_alone_are_held_against_each_other() -> None:
    other = [point("cem", 0.02, noise_std=0.1, weight=1.0), point("cem", 0.01, noise_std=0.2, weight=0.1)]
    assert outcomes(SOUND[0], *other)[2] == "unchecked"


def test_points_that_do_not_beat_their_controls_are_named_and_a_curve_of_them_fails() -> None:
    blind = point("gaussian", 0.05, beats=False, noise_std=0.4)
    kept = check_points((*SOUND, blind))[3]
    assert kept.outcome == "pass"
    assert "gaussian noise_std=0.4" in kept.detail
    lost = check_points((*SOUND, point("cem", 0.05, beats=False)))
    assert lost[3].outcome == "fail"
    assert "no point of cem is left" in lost[3].detail
    assert status_of(lost) == "invalid"
    assert outcomes(SOUND[0])[3] == "unchecked"


def test_a_release_that_may_tell_nothing_takes_no_number_from_others() -> None:
    """As in an audit, where a control must do better beyond the intervals to make it invalid."""
    silent = point("cem", 0.05, beats=False).model_copy(update={"tells_nothing": True})
    checks = check_points((*SOUND, silent))
    assert checks[3].outcome == "unchecked"
    assert "may tell nothing" in checks[3].detail
    assert status_of(checks) == "valid"


def test_every_check_says_what_it_saw() -> None:
    for check in check_points(SOUND):
        assert isinstance(check, ValidityCheck)
        assert check.title
        assert check.detail
