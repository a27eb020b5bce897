"""An untrained network as the prior."""

from __future__ import annotations

import pytest
import torch

from attack_fixtures import KEY, auxiliary, mse, subject, view_of
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.image_prior import ImagePrior, NetworkPrior
from splitveil.errors import SpecError
from splitveil.rng import Rng


def test_it_breaks_a_head_that_hides_nothing() -> None:
    attacked = subject()
    view = view_of(attacked, pictures=auxiliary(64))
    found = mse(ImagePrior(channels=8, steps=200).fit(view, KEY), attacked, 16)
    assert found < 0.1 * mse(MeanImage().fit(view, KEY), attacked, 16)
    assert view.queries == 0


def test_each_row_is_a_network_of_its_own() -> None:
    prior = NetworkPrior((3, 9, 8), 4, Rng(0))
    w = prior.start(3, Rng(1).generator(), 0.0)
    assert w.shape == (3, prior.size)
    drawn = prior.draw(w)
    assert drawn.shape == (3, 3, 9, 8)
    for row in range(3):
        torch.testing.assert_close(prior.draw(w[row : row + 1])[0], drawn[row])
    changed = w.clone()
    changed[1] += 0.1
    assert torch.equal(prior.draw(changed)[0], drawn[0])
    assert not torch.allclose(prior.draw(changed)[1], drawn[1])


@pytest.mark.parametrize("changed", [{"channels": 0}, {"steps": 0}, {"lr": 0.0}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="channels, steps, restarts >= 1 and lr > 0"):
        ImagePrior(**changed)  # type: ignore[arg-type]
