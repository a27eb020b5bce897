"""Knowing the architecture alone."""

from __future__ import annotations

import pytest
import torch

from attack_fixtures import KEY, model, smooth, subject, table, view_of
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.unsplit import UnSplit
from splitveil.errors import SpecError
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import ThreatModel

BLIND = ThreatModel(frozenset({"architecture"}), auxiliary="none")


def test_it_finds_the_shapes_of_a_head_that_keeps_them_without_a_pair_or_a_query() -> None:
    """Up to brightness: nothing says how bright a picture is whose head nobody knows.

    This head is one that it breaks: over fourteen of random weights the correlation ran from 0.46 to 0.98.
    """
    with Rng(3).scoped():
        head = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Sigmoid())
    attacked = ModelSubject(model(head=head))
    view = view_of(attacked, BLIND)
    x = table(smooth(8, "test")).get(torch.arange(8))[0]
    drawn = UnSplit(rounds=40).fit(view, KEY).invert(attacked.release(x, SeededNoise(KEY)))
    pairs = zip(drawn.flatten(1), x.flatten(1), strict=True)
    alike = torch.tensor([abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) for pair in pairs])
    strangers = zip(drawn.flatten(1), x.roll(1, 0).flatten(1), strict=True)
    others = torch.tensor([abs(float(torch.corrcoef(torch.stack(pair))[0, 1])) for pair in strangers])
    assert float(alike.mean()) > 0.9
    assert float(alike.mean()) > float(others.mean()) + 0.2
    assert view.queries == 0


def test_every_release_has_a_clone_of_its_own() -> None:
    attacked = subject()
    x = table(smooth(4, "test")).get(torch.arange(4))[0]
    r = attacked.release(x, SeededNoise(KEY))
    inverter = UnSplit(rounds=2).fit(view_of(attacked, BLIND), KEY)
    torch.testing.assert_close(inverter.invert(r)[2:3], inverter.invert(r[2:3]), rtol=0.0, atol=1e-5)
    assert inverter.facts["misfit"] > 0


@pytest.mark.parametrize("changed", [{"rounds": 0}, {"picture_lr": 0.0}, {"smoothness": -1.0}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="expected"):
        UnSplit(**changed)  # type: ignore[arg-type]
