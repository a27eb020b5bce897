"""The controls against numpy, scikit-learn and the closed form of a linear Gaussian channel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from torch import Tensor, nn

from attack_fixtures import (
    CLASSES,
    KEY,
    PAIRS_ONLY,
    PICTURE,
    Affine,
    auxiliary,
    budgeted,
    constant_subject,
    invertible_head,
    mse,
    smooth,
    subject,
    table,
    view_of,
)
from splitveil.attacks.controls import ClassMean, MeanImage, Ridge, ridge_weights
from splitveil.attacks.inverters import mean_picture
from splitveil.attacks.subjects import ModelSubject
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import InputError, SpecError, ThreatModelError
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel

NO_GRANT = ThreatModel(frozenset())


def pictures_of(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The auxiliary pictures as NumPy sees them, in [0, 1]."""
    return smooth(n).numpy().astype(np.float64) / 255.0


# ------------------------------------------------------------------------------------------------ mean picture


@pytest.mark.parametrize("n", [1, 7, 600])
def test_the_mean_image_is_numpys_mean(n: int) -> None:
    inverter = MeanImage().fit(view_of(subject(), NO_GRANT, auxiliary(n)), KEY)
    pictures = inverter.invert(torch.randn(3, 4, 4, 4, generator=Rng(0).generator()))
    np.testing.assert_allclose(pictures.numpy(), np.repeat(pictures_of(n).mean(0)[None], 3, axis=0), atol=1e-7)
    assert inverter.facts == {"pictures": n}


def test_the_mean_image_asks_for_no_release() -> None:
    view = view_of(constant_subject(math.nan), budgeted(0))
    MeanImage().fit(view, KEY)
    assert view.queries == 0


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_the_mean_does_not_depend_on_the_batches(sizes: list[int]) -> None:
    x = torch.rand(sum(sizes), 1, 2, 2, generator=Rng(0).generator())
    if not len(x):
        with pytest.raises(InputError, match="expected at least one auxiliary picture"):
            mean_picture(torch.split(x, sizes))
        return
    torch.testing.assert_close(mean_picture(torch.split(x, sizes)), x.mean(0))


@pytest.mark.parametrize("attack", [MeanImage(), ClassMean(), Ridge()], ids=lambda attack: attack.name)
def test_no_pictures_is_an_input_error(attack: Any) -> None:
    empty = Pictures(ImageTable(torch.zeros(0, *PICTURE, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(InputError, match="auxiliary picture"):
        attack.fit(view_of(subject(), pictures=empty), KEY)


# ------------------------------------------------------------------------------------------------ class mean


def test_the_class_mean_is_that_of_the_nearest_class() -> None:
    """Distances by hand, in float64, to mean releases that are standardised per channel."""
    attacked, n = subject(), 48
    inverter = ClassMean().fit(view_of(attacked, pictures=auxiliary(n)), KEY)
    x, y = auxiliary(n).get(torch.arange(n))
    r = attacked.release(x, SeededNoise(KEY)).double().numpy()
    mean, std = r.mean((0, 2, 3), keepdims=True), r.std((0, 2, 3), keepdims=True)
    centres = np.stack([((r - mean) / std)[y.numpy() == label].mean(0) for label in range(CLASSES)])
    images = np.stack([pictures_of(n)[y.numpy() == label].mean(0) for label in range(CLASSES)])
    test = attacked.release(table(smooth(40, "test")).get(torch.arange(40))[0], SeededNoise(KEY))
    rows = (test.double().numpy() - mean) / std
    nearest = np.square(rows[:, None] - centres[None]).sum((2, 3, 4)).argmin(1)
    assert len(set(nearest.tolist())) > 1
    np.testing.assert_allclose(inverter.invert(test).numpy(), images[nearest], atol=1e-6)
    assert inverter.facts == {"classes": CLASSES, "pictures": n}


def test_the_class_mean_does_not_care_for_scales() -> None:
    plain, scaled = subject(), subject(head=invertible_head(Affine(1e-4, 0.3)))
    first, second = (ClassMean().fit(view_of(attacked), KEY) for attacked in (plain, scaled))
    assert mse(second, scaled) == pytest.approx(mse(first, plain), rel=1e-6)


def test_a_class_without_pictures_gets_the_mean_of_all() -> None:
    images = smooth(20)
    labels = torch.arange(20) % 2 * 2  # 0 and 2, and no 1
    inverter = ClassMean().fit(view_of(subject(), pictures=Pictures(ImageTable(images, labels))), KEY)
    assert inverter.facts["classes"] == 3
    np.testing.assert_allclose(inverter.state_dict()["images"][1].numpy(), pictures_of(20).mean(0), atol=1e-6)
    centres = inverter.state_dict()["centres"]
    torch.testing.assert_close(centres[1], (centres[0] + centres[2]) / 2, rtol=1e-4, atol=1e-5)


def test_the_class_mean_spends_what_it_has() -> None:
    view = view_of(subject(), budgeted(10))
    assert ClassMean().fit(view, KEY).facts["pictures"] == 10
    assert view.queries == 10
    with pytest.raises(ThreatModelError, match="raise query_budget"):
        ClassMean().fit(view_of(subject(), budgeted(0)), KEY)


# ------------------------------------------------------------------------------------------------ ridge regression


@given(
    n=st.integers(2, 30),
    q=st.integers(1, 30),
    d=st.integers(1, 5),
    penalty=st.floats(1e-3, 1e3),
    shift=st.floats(-5.0, 5.0),
)
@settings(max_examples=20, deadline=None)
def test_ridge_weights_are_those_of_scikit_learn(n: int, q: int, d: int, penalty: float, shift: float) -> None:
    generator = Rng(n).child(q, d).generator()
    features = shift + torch.randn(n, q, generator=generator, dtype=torch.float64)
    targets = torch.randn(n, d, generator=generator, dtype=torch.float64) - shift
    [(weight, bias)] = ridge_weights(features, targets, [penalty])
    reference = SklearnRidge(alpha=penalty, solver="svd").fit(features.numpy(), targets.numpy())
    np.testing.assert_allclose(weight.numpy(), np.reshape(reference.coef_, (d, q)).T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), np.reshape(reference.intercept_, (d,)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n", "q"), [(50, 7), (7, 50), (20, 20)])
def test_ridge_weights_make_the_gradient_vanish(n: int, q: int) -> None:
    """Of ``||Y - R W - b||^2 + a ||W||^2``, for each penalty of a list."""
    generator = Rng(0).generator()
    features = torch.randn(n, q, generator=generator, dtype=torch.float64)
    targets = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    penalties = [1e-6, 0.1, 10.0]
    solutions = ridge_weights(features, targets, penalties)
    assert len(solutions) == 3
    for penalty, (weight, bias) in zip(penalties, solutions, strict=True):
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = (targets - features @ weight - bias).square().sum() + penalty * weight.square().sum()
        for gradient in torch.autograd.grad(loss, (weight, bias)):
            assert float(gradient.abs().max()) < 1e-7


class Flat(nn.Module):
    """``(n, 1, 4, 4)`` to ``A x``, q values."""

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T


def gaussian_pictures(n: int, key: str, root: Tensor) -> Pictures:
    """Pictures ``N(1/2, S)``, S = root root^T, in 256 levels."""
    x = 0.5 + torch.randn(n, 16, generator=Rng(11).child(key).generator()) @ root.T
    assert float(x.min()) > 0.0
    assert float(x.max()) < 1.0
    images = (255 * x).round().to(torch.uint8).reshape(n, 1, 4, 4)
    return Pictures(ImageTable(images, torch.zeros(n, dtype=torch.int64)))


@pytest.mark.parametrize("noise_std", [0.02, 0.2])
def test_ridge_reaches_the_posterior_mean_of_a_linear_gaussian_channel(noise_std: float) -> None:
    """``E ||x - E[x|r]||^2 = tr(S - S A^T (A S A^T + s^2 I)^-1 A S)``: none does better, and ridge does as well."""
    generator = Rng(12).generator()
    root = 0.08 * torch.randn(16, 16, generator=generator) / 4
    matrix = torch.randn(8, 16, generator=generator) / 4
    head = Flat(matrix)
    parts = SplitParts(head, nn.Linear(8, 2), (1, 4, 4))
    attacked = ModelSubject(SplitModel(parts, Gaussian(noise_std)))
    covariance, a = (root @ root.T).double(), matrix.double()
    signal = a @ covariance @ a.T + noise_std**2 * torch.eye(8, dtype=torch.float64)
    posterior = covariance - covariance @ a.T @ torch.linalg.solve(signal, a @ covariance)
    expected = float(posterior.trace()) / 16
    inverter = Ridge().fit(view_of(attacked, pictures=gaussian_pictures(8192, "auxiliary", root)), KEY)
    x = gaussian_pictures(8192, "test", root).get(torch.arange(8192))[0]
    r = attacked.release(x, SeededNoise(Rng(13)))
    error = float((inverter.invert(r) - x).double().square().mean())
    prior = float(covariance.trace()) / 16
    assert error == pytest.approx(expected, rel=0.03)
    assert expected < 0.98 * prior


def test_ridge_breaks_a_head_that_is_nearly_linear() -> None:
    attacked = subject()
    ridge = Ridge().fit(view_of(attacked, pictures=auxiliary(128)), KEY)
    mean_image = MeanImage().fit(view_of(attacked, pictures=auxiliary(128)), KEY)
    assert mse(ridge, attacked) < 0.01 * mse(mean_image, attacked)


def test_ridge_does_not_care_for_scales() -> None:
    plain, scaled = subject(), subject(head=invertible_head(Affine(1e-3, 0.0)))
    first, second = (Ridge(penalties=(1e-3,)).fit(view_of(attacked), KEY) for attacked in (plain, scaled))
    assert mse(second, scaled) == pytest.approx(mse(first, plain), rel=0.01)


def test_ridge_keeps_the_penalty_with_the_least_validation_error() -> None:
    penalties = []
    for noise_std in (1e-4, 0.03, 1.0):
        facts = Ridge().fit(view_of(subject(Gaussian(noise_std)), pictures=auxiliary(200)), KEY).facts
        errors = facts["val_mse"]
        assert list(errors) == [str(penalty) for penalty in Ridge().penalties]
        assert errors[str(facts["penalty"])] == min(errors.values())
        assert facts["pictures"] == 200
        penalties.append(facts["penalty"])
    assert penalties[0] < penalties[1] < penalties[2]


def test_a_penalty_is_per_picture_and_per_standardised_value() -> None:
    """The same W and b as scikit-learn's with n p as its penalty, on releases that are standardised per channel."""
    attacked, n, penalty = subject(head=invertible_head(Affine(20.0, 3.0))), 60, 0.05
    inverter = Ridge(penalties=(penalty,)).fit(view_of(attacked, pictures=auxiliary(n)), KEY)
    r = attacked.release(auxiliary(n).get(torch.arange(n))[0], SeededNoise(KEY)).double().numpy()
    mean, std = r.mean((0, 2, 3), keepdims=True), r.std((0, 2, 3), keepdims=True)
    reference = SklearnRidge(alpha=n * penalty).fit(((r - mean) / std).reshape(n, -1), pictures_of(n).reshape(n, -1))
    state = inverter.state_dict()
    np.testing.assert_allclose(state["weight"].numpy(), reference.coef_.T, atol=1e-5)
    np.testing.assert_allclose(state["bias"].numpy(), reference.intercept_, atol=1e-5)


def test_ridge_takes_no_more_pictures_than_it_may() -> None:
    view = view_of(subject())
    assert Ridge(pictures=12).fit(view, KEY).facts["pictures"] == view.queries == 12
    scarce = view_of(subject(), budgeted(9))
    assert Ridge().fit(scarce, KEY).facts["pictures"] == scarce.queries == 9
    with pytest.raises(ThreatModelError, match="raise query_budget"):
        Ridge().fit(view_of(subject(), budgeted(3)), KEY)


@pytest.mark.parametrize("val_share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("n", [4, 5, 20])
def test_ridge_works_with_few_pictures(n: int, val_share: float) -> None:
    attack = Ridge(val_share=val_share)
    inverter = attack.fit(view_of(subject(Gaussian(0.1)), PAIRS_ONLY, auxiliary(n)), KEY)
    assert math.isfinite(mse(inverter, subject()))


@pytest.mark.parametrize("attack", [ClassMean(), Ridge()], ids=lambda attack: attack.name)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_releases_that_are_not_finite_are_refused(attack: Any, value: float) -> None:
    with pytest.raises(InputError, match="expected finite numbers in a release"):
        attack.fit(view_of(constant_subject(value)), KEY)


@pytest.mark.parametrize("attack", [ClassMean(), Ridge()], ids=lambda attack: attack.name)
def test_a_constant_release_gives_the_mean_picture_or_that_of_a_class(attack: Any) -> None:
    attacked = constant_subject(0.25)
    error = mse(attack.fit(view_of(attacked), KEY), attacked)
    mean_image = mse(MeanImage().fit(view_of(attacked), KEY), attacked)
    assert mean_image * 0.99 < error < 2.0 * mean_image


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    "values",
    [
        {"penalties": ()},
        {"penalties": (0.0,)},
        {"penalties": (1.0, -1.0)},
        {"penalties": (math.inf,)},
        {"penalties": (math.nan,)},
        {"pictures": 3},
        {"pictures": -1},
        {"val_share": 0.0},
        {"val_share": 1.0},
        {"val_share": math.nan},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"expected .*, got "):
        Ridge(**values)


def test_penalties_from_json_are_the_same_configuration() -> None:
    assert Ridge(penalties=[0.1, 1.0]) == Ridge(penalties=(0.1, 1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("grant", ["pairs", "labels"])
def test_the_class_mean_needs_both_of_its_grants(grant: str) -> None:
    with pytest.raises(ThreatModelError, match=f"attack 'class_mean' needs {grant}"):
        ClassMean().fit(view_of(subject(), ThreatModel(frozenset({"pairs", "labels"} - {grant}))), KEY)  # type: ignore[arg-type]
