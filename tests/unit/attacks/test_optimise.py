"""Searching for the picture: calibrated where the answer is known, and a win where nothing is hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gaussian_linear as world
from attack_fixtures import KEY, PAIRS_ONLY, WHITE_BOX, auxiliary, mse, smooth, subject, table, view_of
from splitveil.attacks import priors
from splitveil.attacks.channel import probes
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.image_prior import ImagePrior
from splitveil.attacks.optimise import Optimise
from splitveil.attacks.priors import GaussianPrior, TotalVariation
from splitveil.contracts import Inverter
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError, ThreatModelError, UnknownNameError
from splitveil.noise import SeededNoise
from splitveil.threats import ThreatModel


def fit(attack: Optimise) -> Inverter:
    return attack.fit(view_of(world.subject(), WHITE_BOX, world.pictures(4000, "auxiliary")), KEY)


def error(inverter: Inverter, n: int = 1000) -> float:
    x = world.pictures(n, "test").get(torch.arange(n))[0]
    return float((inverter.reconstruct(world.releases(x)) - x).double().square().mean())


def test_with_the_gaussian_prior_it_comes_within_five_percent_of_the_least_error() -> None:
    """d = 64, q = 32, n = 1,000 pictures attacked, 4,000 to learn the prior from."""
    inverter = fit(Optimise(steps=150))
    assert error(inverter) == pytest.approx(world.mmse(), rel=0.05)
    assert inverter.facts["converged"]


def test_total_variation_is_far_above_it_and_no_prior_is_worse_still() -> None:
    smooth_only, nothing = error(fit(Optimise(prior="tv", steps=150))), error(fit(Optimise(prior="none", steps=150)))
    assert smooth_only > 1.3 * world.mmse()
    assert nothing > 1.2 * smooth_only


def test_it_breaks_a_head_that_hides_nothing() -> None:
    attacked = subject()
    view = view_of(attacked, pictures=auxiliary(256))
    found = mse(Optimise(steps=150).fit(view, KEY), attacked, 64)
    assert found < 0.02 * mse(MeanImage().fit(view, KEY), attacked, 64)
    assert view.queries == 0


def test_the_expectation_over_the_noise_is_the_noise_free_release_where_noise_is_additive() -> None:
    attacked = subject(Gaussian(0.1))
    x = table(smooth(8, "test")).get(torch.arange(8))[0]
    r = attacked.release(x, SeededNoise(KEY))
    free, drawn = (
        Optimise(steps=60, noise_draws=draws).fit(view_of(attacked, pictures=auxiliary(128)), KEY).invert(r)
        for draws in (0, 64)
    )
    assert float((free - drawn).square().mean()) < 1e-3


def test_restarts_never_raise_the_objective() -> None:
    attacked = subject(Gaussian(0.1))
    r = attacked.release(table(smooth(8, "test")).get(torch.arange(8))[0], SeededNoise(KEY))
    values = []
    for restarts in (1, 3):
        inverter = Optimise(steps=20, restarts=restarts).fit(view_of(attacked), KEY)
        inverter.invert(r)
        values.append(inverter.facts["objective"])
    assert values[1] <= values[0]


def test_a_decoder_warms_the_start() -> None:
    attacked = subject(Gaussian(0.1))
    r = attacked.release(table(smooth(8, "test")).get(torch.arange(8))[0], SeededNoise(KEY))
    decoder = {"channels": 4, "blocks": 1, "epochs": 3, "batch_size": 16}
    warm = Optimise(steps=1, lr=1e-6, warm_start="decoder", decoder=decoder).fit(view_of(attacked), KEY)
    cold = Optimise(steps=1, lr=1e-6).fit(view_of(attacked), KEY)
    assert float((warm.invert(r) - cold.invert(r)).abs().max()) > 0.01


def test_it_needs_the_weights() -> None:
    with pytest.raises(ThreatModelError, match="needs weights"):
        Optimise().fit(view_of(subject(), PAIRS_ONLY), KEY)
    assert ThreatModel(Optimise.needs).allows("weights")


@pytest.mark.parametrize(
    ("changed", "kind", "part"),
    [
        ({"prior": "laplace"}, UnknownNameError, "unknown prior 'laplace'"),
        ({"warm_start": "decodr"}, UnknownNameError, "did you mean 'decoder'"),
        ({"decoder": {"epochs": 1}}, SpecError, "warm_start='decoder'"),
        ({"steps": 0}, SpecError, "steps, restarts >= 1"),
        ({"lr": 0.0}, SpecError, "lr > 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(changed: dict[str, Any], kind: type[Exception], part: str) -> None:
    with pytest.raises(kind, match=part):
        Optimise(**changed)


def test_the_gaussian_prior_is_what_it_was_fitted_to() -> None:
    x = world.pictures(4000, "auxiliary").get(torch.arange(4000))[0]
    prior = GaussianPrior.fit(x, 1.0)
    torch.testing.assert_close(prior.draw(prior.locate(x[:5])), x[:5], atol=1e-4, rtol=0)
    energies = prior.energy(prior.locate(x))
    assert float(energies.mean()) == pytest.approx(world.D / 2, rel=0.02)  # half of a chi-square of d degrees


def test_axes_that_few_large_pictures_span_are_those_of_their_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 3 x 224 x 224 has a covariance of 180 GB."""
    x = world.pictures(40, "auxiliary").get(torch.arange(40))[0]
    whole = GaussianPrior.fit(x, 1.0)
    monkeypatch.setattr(priors, "_WIDEST", world.D - 1)
    spanned = GaussianPrior.fit(x, 1.0)
    count = spanned.axes.shape[1]
    assert count == 39, "forty pictures around their mean"
    assert torch.equal(spanned.mean, whole.mean)
    torch.testing.assert_close(spanned.axes.norm(dim=0), whole.axes.norm(dim=0)[-count:], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(spanned.draw(spanned.locate(x)), x, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        spanned.energy(spanned.locate(x)), whole.energy(whole.locate(x)[:, -count:]), rtol=1e-3, atol=1e-4
    )


def test_total_variation_is_the_negative_log_density_of_laplace_steps() -> None:
    prior = TotalVariation(torch.full((1, 3, 3), 0.5), scale=0.1, weight=2.0)
    x = torch.tensor([[[[0.2, 0.4], [0.2, 0.8]]]])
    steps = abs(0.4 - 0.2) + abs(0.8 - 0.2) + abs(0.2 - 0.2) + abs(0.8 - 0.4)
    assert float(prior.energy(torch.logit(x))) == pytest.approx(2 * steps / 0.1, rel=1e-5)


def test_without_pictures_it_still_breaks_a_head_that_hides_nothing() -> None:
    """The weights are enough: nobody has to hold pictures to search for one."""
    attacked, threat = subject(Gaussian(0.01)), ThreatModel(WHITE_BOX.grants, auxiliary="none")
    view = view_of(attacked, threat)
    grey = float((table(smooth(64, "test")).get(torch.arange(64))[0] - 0.5).square().mean())
    for attack in (Optimise(prior="tv", steps=150), Optimise(prior="none", steps=150), ImagePrior(steps=150)):
        assert not attack.needs_auxiliary
        assert mse(attack.fit(view, KEY), attacked, 64) < 0.1 * grey
    for attack in (Optimise(), Optimise(prior="tv", warm_start="decoder")):
        assert attack.needs_auxiliary
        with pytest.raises(ThreatModelError, match="pictures"):
            attack.fit(view, KEY)


def test_what_stands_for_pictures_has_blots_of_all_sizes() -> None:
    view = view_of(subject(), ThreatModel(WHITE_BOX.grants, auxiliary="none"))
    x = probes(view, 64)
    assert tuple(x.shape) == (64, 1, 8, 8)
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    means = x.mean((1, 2, 3))
    assert float(means.std()) > 0.05, "some are dark and some are bright"
    assert float((x[..., 1:] - x[..., :-1]).abs().mean()) < float((x[..., 4:] - x[..., :-4]).abs().mean())
    assert torch.equal(x, probes(view, 64))
