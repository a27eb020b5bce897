"""The closed form against float64 algebra, and against the least error that any attacker can have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gaussian_linear as world
from attack_fixtures import KEY, WHITE_BOX, view_of
from splitveil.attacks.linear import Linear, posterior_gain
from splitveil.contracts import Inverter
from splitveil.errors import SpecError
from splitveil.threats import ThreatModel

BLACK_BOX = ThreatModel.preset("black_box")


def fit(attack: Linear, threat: ThreatModel = WHITE_BOX, n: int = 4000) -> Inverter:
    return attack.fit(view_of(world.subject(), threat, world.pictures(n, "auxiliary")), KEY)


def error(inverter: Inverter, n: int = 4000, observations: int = 1) -> float:
    x = world.pictures(n, "test").get(torch.arange(n))[0]
    return float((inverter.reconstruct(world.releases(x, observations)) - x).double().square().mean())


def test_it_is_the_posterior_mean_of_a_gaussian_picture() -> None:
    """d = 64, q = 32, n = 4,000: equal to 1e-6 to the textbook formula, with the auxiliary pictures' own moments."""
    inverter = fit(Linear(shrinkage=0.0))
    held = world.pictures(4000, "auxiliary").images.double().flatten(1).numpy() / 255
    a, mean = world.matrix(), held.mean(0)
    prior = np.cov(held.T, bias=True)
    gain = prior @ a.T @ np.linalg.inv(a @ prior @ a.T + world.NOISE_STD**2 * np.eye(world.Q))
    x = world.pictures(100, "test").get(torch.arange(100))[0]
    r = world.releases(x)
    layer = world.linear_head()[1]
    offset = layer.bias.detach().double().numpy()
    expected = mean + (r.double().numpy() - offset - a @ mean) @ gain.T
    np.testing.assert_allclose(inverter.reconstruct(r).flatten(1).double().numpy(), expected, rtol=0, atol=1e-6)
    assert inverter.facts["moments"] == "noise-free releases"


def test_it_attains_the_least_error_there_is() -> None:
    """And none lies under it: the sample mean of 4,000 pictures is within 2 % of the truth."""
    assert error(fit(Linear())) == pytest.approx(world.mmse(), rel=0.04)
    assert error(fit(Linear(), BLACK_BOX)) == pytest.approx(world.mmse(), rel=0.06)
    assert error(fit(Linear())) > 0.97 * world.mmse()


@pytest.mark.parametrize("threat", [WHITE_BOX, BLACK_BOX])
def test_sixteen_releases_are_worth_what_theory_says(threat: ThreatModel) -> None:
    several = ThreatModel(threat.grants, observations=16)
    assert world.mmse(16) < 0.8 * world.mmse()
    assert error(fit(Linear(), several), observations=16) == pytest.approx(world.mmse(16), rel=0.06)


def test_with_fewer_pictures_than_dimensions_it_shrinks() -> None:
    few = fit(Linear(), BLACK_BOX, n=40)
    assert few.facts["shrinkage"] > 0
    variance = float(np.trace(world.covariance()) / world.D)
    assert error(few) < variance  # better than the mean picture
    assert error(fit(Linear(shrinkage=0.0), BLACK_BOX, n=40)) > error(few)


def test_dimensions_that_say_nothing_do_no_harm() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    r = torch.cat([x @ torch.randn(3, 2, generator=generator, dtype=torch.float64), torch.ones(50, 1).double()], dim=1)
    gain, mean_x, mean_r = posterior_gain(x, r, None, 0.0)
    alone, _, _ = posterior_gain(x, r[:, :2], None, 0.0)
    torch.testing.assert_close(mean_x + (r - mean_r) @ gain, mean_x + (r - mean_r)[:, :2] @ alone)


@pytest.mark.parametrize("changed", [{"shrinkage": -1.0}, {"pictures": 2}, {"val_share": 1.0}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="expected"):
        Linear(**changed)  # type: ignore[arg-type]
