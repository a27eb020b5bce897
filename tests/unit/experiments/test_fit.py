"""A model that does not fit its data is refused before it is trained."""

from __future__ import annotations

import pytest
from torch import nn

from splitveil.data.digits import load_digits
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.experiments.building import check_fit
from splitveil.nets.parts import SplitParts
from splitveil.nets.small import small
from splitveil.split_model import SplitModel


def test_a_model_that_fits_passes_and_keeps_its_mode() -> None:
    model = SplitModel(small(classes=12), Gaussian(noise_std=0.1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_fit(model, load_digits())
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (small(classes=3), r"output \(n, 10\).*got \(n, 3\)"),
        (small(classes=10, input_shape=(3, 8, 8)), r"shape \(1, 8, 8\), got one for \(3, 8, 8\)"),
        (SplitParts(nn.Identity(), nn.Linear(7, 10), (1, 8, 8)), "cannot take pictures of shape"),
        (SplitParts(nn.Identity(), nn.Identity(), (1, 8, 8)), r"got \(n, 1, 8, 8\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(parts: SplitParts, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_fit(SplitModel(parts, Gaussian(noise_std=0.1)), load_digits())
