"""The page of a comparison: it says what is shown, marks what is not, and keeps one colour per defense."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import MakeRun, attack_result

from splitveil.cli.compare import _show
from splitveil.experiments.compare.record import ComparisonRecord, DeltaRecord, Interval, PointRecord
from splitveil.experiments.compare.validity import CONTROLS, check_points, status_of
from splitveil.report.comparison import build_comparison_report, matched_points
from splitveil.specs import PlugInSpec


def interval(mean: float, arm: float) -> Interval:
    return Interval(mean=mean, low=mean - arm, high=mean + arm)


def point(name: str, accuracy: float, mse: float, **changes: Any) -> PointRecord:
    params = changes.pop("params", {})
    label = "-".join([name, *(str(value) for value in params.values())])
    values = {
        "defense": PlugInSpec(name=name, params=params),
        "runs": {0: label, 1: f"{label}-1"},
        "val_accuracy": accuracy,
        "val_mse": mse,
        "selected": True,
        "accuracy": interval(accuracy, 0.01),
        "mse": interval(mse, 0.0006),
        "psnr_db": 15.0,
        "converged_share": 1.0,
        "controls": CONTROLS,
        "beats_controls": True,
    }
    return PointRecord(**{**values, **changes})


def delta(**changes: Any) -> DeltaRecord:
    values = {
        "reference": "gaussian",
        "other": "cem",
        "verdict": "delta",
        "mse_db": interval(1.62, 0.5),
        "accuracy_points": interval(4.1, 1.2),
        "accuracy_range": (0.71, 0.9),
        "overlapping_share": 1.0,
        "level": 0.95,
        "resamples": 1000,
        "seeds": 2,
        "pictures": 360,
        "converged_share": 1.0,
    }
    return DeltaRecord(**{**values, **changes})


POINTS = (
    point("none", 0.95, 0.006),
    point("gaussian", 0.93, 0.012, params={"noise_std": 0.1}),
    point("gaussian", 0.86, 0.021, params={"noise_std": 0.3}),
    point("gaussian", 0.71, 0.035, params={"noise_std": 0.6}),
    point("cem", 0.92, 0.016, params={"noise_std": 0.1, "weight": 0.5}),
    point("cem", 0.85, 0.034, params={"noise_std": 0.3, "weight": 0.5}, converged_share=0.5),
    point("cem", 0.83, 0.029, params={"noise_std": 0.3, "weight": 0.2}, selected=False),
    point("cem", 0.70, 0.045, params={"noise_std": 0.6, "weight": 0.5}),
)


def comparison(*deltas: DeltaRecord, points: tuple[PointRecord, ...] = POINTS, **changes: Any) -> ComparisonRecord:
    checks = check_points(points)
    values = {
        "recipe": "tiny",
        "data": {"source": "digits"},
        "seeds": (0, 1),
        "points": points,
        "deltas": deltas,
        "checks": checks,
        "status": status_of(checks),
        "failed": {},
        "converged_share": 0.9,
    }
    return ComparisonRecord(**{**values, **changes})


@pytest.fixture
def page(tmp_path: Path, make_run: MakeRun) -> Any:
    """Writes the page of a record and returns its text."""

    def build(record: ComparisonRecord) -> str:
        for item in record.points:
            for seed, name in item.runs.items():
                if not (tmp_path / "runs" / name).exists():
                    attack = attack_result(item.mse.mean)
                    make_run(
                        item.defense.name,
                        name=name,
                        accuracy=item.accuracy.mean,
                        params=item.defense.params,
                        seed=seed,
                        attacks=[attack],
                    )
        return build_comparison_report(record, tmp_path, tmp_path / "report.html").read_text()

    return build


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def test_points_are_matched_on_validation_pictures() -> None:
    assert [item.label for item in matched_points(comparison(delta()))] == [
        "none",
        "gaussian noise_std=0.1",
        "cem noise_std=0.1, weight=0.5",
    ]
    told = {"cem noise_std=0.1, weight=0.5": 0.88, "cem noise_std=0.6, weight=0.5": 0.86}
    moved = tuple(item.model_copy(update={"val_accuracy": told.get(item.label, item.val_accuracy)}) for item in POINTS)
    assert [item.label for item in matched_points(comparison(points=moved))][1:] == [
        "gaussian noise_std=0.3",
        "cem noise_std=0.6, weight=0.5",
    ]
    assert [item.label for item in matched_points(comparison(points=POINTS[:1]))] == ["none"]


def test_a_defense_has_one_colour_on_the_whole_page(page: Any) -> None:
    """Gaussian comes first in the comparison, though its run here is the more private one."""
    points = (POINTS[0], point("gaussian", 0.9, 0.04), point("cem", 0.9, 0.02))
    html = page(comparison(points=points))
    for name, colour in (("none", 0), ("gaussian", 1), ("cem", 2)):
        found = set(re.findall(rf'class="run c(\d)"><span class="dot" aria-hidden="true"></span>{name}', html))
        assert found == {str(colour)}


def test_attackers_that_still_learned_are_marked(page: Any) -> None:
    html = page(comparison(delta(converged_share=0.9)))
    assert html.count('<strong class="unsure">50 % †</strong>') == 1
    assert html.count('<strong class="unsure">90 % †</strong>') == 1
    assert ">0.3, 0.5 †<" in html  # in the plot
    assert "still learning when its budget ended" in html
    sure = page(comparison(delta(), points=POINTS[:5]))
    assert "†" not in sure


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (delta(), "the attacker on cem errs by 1.6 dB more than on gaussian (1.12 to 2.12)"),
        (delta(mse_db=interval(-1.0, 0.1)), "the attacker on cem errs by 1.0 dB less than on gaussian"),
        (
            delta(mse_db=interval(0.2, 0.5)),
            "cannot be told from that on gaussian: +0.20 dB (\N{MINUS SIGN}0.30 to 0.70)",
        ),
        (delta(verdict="no overlap", mse_db=None), "cannot be compared with that on gaussian: no overlap"),
        (delta(verdict="no shared seed", mse_db=None), "cannot be compared with that on gaussian: no shared seed"),
    ],
)
def test_the_first_sentence_claims_what_is_shown(page: Any, found: DeltaRecord, said: str) -> None:
    assert said in words(page(comparison(found)))


def test_a_range_that_few_resamples_share_is_marked(page: Any) -> None:
    assert '<strong class="unsure">68 %</strong>' in page(comparison(delta(overlapping_share=0.68)))
    assert '<strong class="unsure">' not in page(comparison(delta(), points=POINTS[:5]))


def test_a_broken_control_takes_the_numbers_away(page: Any) -> None:
    points = (POINTS[0].model_copy(update={"beats_controls": False}), *POINTS[1:])
    html = page(comparison(delta(), points=points))
    assert "against gaussian: INVALID" in words(html)
    assert "nothing in it is evidence of privacy" in words(html)
    assert "+1.62" not in html


def test_a_comparison_that_nothing_proves_is_marked_where_its_number_stands(page: Any) -> None:
    """Without the undefended model nobody knows whether the attacker works."""
    record = comparison(delta(), points=POINTS[1:5])
    assert record.status == "unproven"
    html = page(record)
    assert '<div class="headline unsure">' in html
    assert "at equal accuracy, unproven" in words(html)
    assert "whether the attacker works is unproven." in words(html)
    assert "no undefended model stands beside the others" in words(html)
    sure = page(comparison(delta(), points=POINTS[:5]))
    assert '<div class="headline">' in sure
    assert "unproven" not in sure


def test_points_whose_attacker_fails_its_controls_are_invalid(page: Any) -> None:
    blind = point("gaussian", 0.4, 0.0777, params={"noise_std": 0.9}, beats_controls=False, selected=False)
    html = page(comparison(delta(), points=(*POINTS[:5], blind)))
    assert "0.0777" not in html
    row = re.search(r'<th scope="row">(?:(?!</tr>).)*noise_std=0.9.*?</tr>', html, re.DOTALL)
    assert row is not None
    assert row[0].count("INVALID") == 2
    assert "INVALID and left out: gaussian noise_std=0.9" in words(html)
    assert "+1.62" in html


def test_the_table_of_the_command_says_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    blind = point("cem", 0.9, 0.0777, beats_controls=False, selected=False, psnr_db=11.1)
    found = delta(verdict="controls not beaten", mse_db=None, accuracy_points=None, accuracy_range=None)
    record = comparison(found, points=(*POINTS[:4], blind.model_copy(update={"tells_nothing": True})))
    assert record.status == "valid"
    _show(record)
    shown = capsys.readouterr().out
    [row] = [line for line in shown.splitlines() if line.startswith("cem ") and "over" not in line]
    assert row.split()[-4:] == ["INVALID", "100", "%", "no"]
    assert row.count("INVALID") == 2
    assert "0.0777" not in shown
    assert "cem over gaussian: controls not beaten; raise  -p epochs" in shown


def test_a_defense_without_a_valid_point_is_shown_as_invalid(page: Any) -> None:
    blind = point("cem", 0.9, 0.0777, beats_controls=False, selected=False)
    found = delta(verdict="controls not beaten", mse_db=None, accuracy_points=None, accuracy_range=None)
    html = page(comparison(found, points=(*POINTS[:4], blind)))
    assert "cem against gaussian: INVALID" in words(html)
    assert [item.label for item in matched_points(comparison(points=(*POINTS[:4], blind)))][-1] == "cem"
    alone = comparison(points=(blind,))
    assert alone.status == "invalid"
    assert "What the attacker sees" in page(alone)


def test_the_plot_names_points_by_what_varies(page: Any) -> None:
    html = page(comparison(delta(), points=(*POINTS[:5], POINTS[7])))
    assert ">none<" in html
    assert ">0.1<" in html  # of gaussian, and of cem, whose weight is the same at all of its points
    assert "0.1, 0.5" not in html
    assert "gaussian, by noise_std" in html
    assert "over the shaded accuracies" in html
    assert "over the shaded accuracies" not in page(comparison(delta(), delta(reference="cem", other="gaussian")))


def test_seeds_that_failed_are_missed_in_the_table_and_their_errors_listed(page: Any) -> None:
    points = (*POINTS[:2], POINTS[4].model_copy(update={"runs": {1: "cem-0.1-0.5-1"}}))
    html = page(comparison(delta(), points=points, failed={"cem-a": "out of <memory>"}))
    assert "(1 of 2 seeds)" in html
    assert "out of &lt;memory&gt;" in html
    assert "seed 1" in html  # the runs that are shown are those of the seed that all of them have
