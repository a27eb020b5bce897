"""What is left beyond pixels: the judges see reconstructions and the originals at their places, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attack_fixtures import CLASSES, auxiliary, smooth, subject, table
from splitveil.audit.judges import likeness_judge, recognition_judge
from splitveil.errors import MissingDataError
from splitveil.experiments.target import Judge, Target, judge_all


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
