"""What is left beyond pixels: the judges see reconstructions and the originals at their places, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attack_fixtures import CLASSES, auxiliary, smooth, subject, table
from splitveil.audit.judges import likeness_judge, recognition_judge
from splitveil.audit.noise import on_other_draws
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import MissingDataError
from splitveil.experiments.attacking import attack_target, fit_and_score
from splitveil.experiments.target import Judge, Target, judge_all
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer


@pytest.fixture(scope="module")
def target() -> Target:
    return Target(subject(), test=table(smooth(64, "test")), auxiliary=lambda _: auxiliary(128), seed=0)


@pytest.fixture(scope="module")
def judged(target: Target) -> tuple[Judge, float]:
    judge, ceiling = recognition_judge(target, auxiliary(256), CLASSES)
    return judge, ceiling.mean


def originals(target: Target, places: Tensor) -> Tensor:
    return target.test.get(places)[0]


def test_originals_are_recognised_as_often_as_the_ceiling_says(target: Target, judged: tuple[Judge, float]) -> None:
    judge, ceiling = judged
    places = target.places(None)
    assert float(judge.score(originals(target, places), places).mean()) == pytest.approx(ceiling)
    assert ceiling > 0.8


def test_grey_is_recognised_by_chance_alone_and_others_pictures_are_not_ours(
    target: Target, judged: tuple[Judge, float]
) -> None:
    judge, ceiling = judged
    places = target.places(20)
    grey = torch.full_like(originals(target, places), 0.5)
    assert float(judge.score(grey, places).mean()) <= 2 / CLASSES
    shifted = originals(target, (places + 1) % 64)  # classes come in turn: always another class
    assert float(judge.score(shifted, places).mean()) < 0.3 < ceiling


def test_judges_of_a_target_are_heard_with_intervals(target: Target, judged: tuple[Judge, float]) -> None:
    target.judges["recognised"] = judged[0]
    places = target.places(None)
    [(name, found)] = judge_all(target, originals(target, places), places).items()
    assert (name, found.safer, found.n) == ("recognised", "lower", 64)
    assert found.low <= found.mean <= found.high


def test_missing_weights_of_lpips_are_one_error(target: Target, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"nothing\.safetensors"):
        likeness_judge(target, tmp_path / "nothing.safetensors")


COMMITTEE = PlugInSpec(
    name="committee",
    params={"members": [{"channels": 4, "blocks": 1, "epochs": 1}, {"channels": 6, "blocks": 1, "epochs": 1}]},
)


def test_a_committee_is_put_together_again_for_other_draws_of_the_noise() -> None:
    """Its members are kept in a run's folder, itself is not: a repeated audit must not lose the control."""
    threat = ThreatModel.preset("white_box")

    def fresh() -> Target:
        test = table(smooth(64, "test"))
        return Target(subject(Gaussian(0.1)), test=test, auxiliary=lambda _: auxiliary(64), seed=0)

    best, _, _ = fit_and_score(fresh(), COMMITTEE, threat=threat)
    first, again = (on_other_draws(fresh(), best, None, Observer()) for _ in range(2))
    assert first == again
    assert first is not None
    assert len(first) == 2


def test_a_judge_of_other_weights_looks_again(tmp_path: Path) -> None:
    """The name of a judge does not say what it is made of."""
    record, threat = RunRecord(tmp_path), ThreatModel.preset("white_box")
    target = Target(subject(Gaussian(0.1)), test=table(smooth(32, "test")), auxiliary=lambda _: auxiliary(32), seed=0)
    found = []
    for digest, score in (("", 0.1), ("one", 0.2), ("one", 0.3), ("two", 0.4)):
        judge = Judge(lambda drawn, _, score=score: torch.full((len(drawn),), score), "", "higher", digest)
        target.judges["lpips"] = judge
        result = attack_target(record, target, PlugInSpec(name="mean_image"), threat=threat)
        found.append(round(result.beyond_pixels["lpips"].mean, 3))
    assert found == [0.1, 0.2, 0.2, 0.4]
    assert len(record.attacks) == 1


def test_another_data_set_that_has_changed_is_learned_from_again(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "run")
    threat = ThreatModel(ThreatModel.preset("white_box").grants, auxiliary="shifted", shift="pictures.npz")
    sizes = []
    for count in (40, 40, 48):
        target = Target(
            subject(), test=table(smooth(32, "test")), auxiliary=lambda _, count=count: auxiliary(count), seed=0
        )
        before = len(record.attacks) and record.attacks[0].elapsed_s
        result = attack_target(record, target, PlugInSpec(name="mean_image"), threat=threat)
        sizes.append((result.facts["auxiliary_pictures"], result.elapsed_s == before))
    assert sizes == [(40, False), (40, True), (48, False)]
