"""The penalty of conditional entropy maximisation: what it fits, what it says, and where its gradient goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bound_reference as reference
from splitveil.contracts import FeatureBatch, FeatureSpec, GaussianChannel, PenaltyContext, Trace, TrainState
from splitveil.defenses.penalties.conditional_entropy import ConditionalEntropy
from splitveil.errors import SpecError, UnknownNameError
from splitveil.rng import Rng

SHAPE, Q, CLASSES = (3, 2, 2), 12, 4
NOISE_STD = 0.2
KEY = Rng(0)
PER_CHANNEL = torch.tensor([0.05, 0.2, 0.6]).view(3, 1, 1)

each_surrogate = pytest.mark.parametrize("surrogate", ["bound", "thresholded_trace"])
each_noise = pytest.mark.parametrize("std", [torch.tensor(NOISE_STD), PER_CHANNEL], ids=["scalar", "per_channel"])


@dataclass
class Stream:
    """Features in chunks; counts the chunks that were read."""

    z: Tensor
    y: Tensor
    std: Tensor | None
    rng: Rng = KEY
    chunk: int = 50
    classes: int = CLASSES
    read: list[int] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.y)

    def __iter__(self) -> Iterator[FeatureBatch]:
        for start in range(0, len(self.y), self.chunk):
            z, y = self.z[start : start + self.chunk], self.y[start : start + self.chunk]
            self.read.append(len(y))
            yield FeatureBatch(z, y, None if self.std is None else GaussianChannel(z, self.std))


def features(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Maps with labels; place and spread depend on class and channel."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % CLASSES)
    world = np.random.default_rng(0)
    place, spread = world.normal(size=(CLASSES, *SHAPE)), np.exp(world.normal(size=(CLASSES, *SHAPE)))
    z = place[y] + spread[y] * rng.normal(size=(n, *SHAPE))
    return torch.from_numpy(z).float(), torch.from_numpy(y)


def fitted(std: Tensor | None = None, **params: Any) -> ConditionalEntropy:
    penalty = ConditionalEntropy(CLASSES, Q, **{"clusters": 2, **params})
    penalty.on_epoch(Stream(*features(1, 400), torch.tensor(NOISE_STD) if std is None else std))
    return penalty


def context_of(y: Tensor) -> PenaltyContext:
    """What a loop would hand to it."""
    return PenaltyContext(nn.Identity(), y, TrainState(1, 0, 0.5, 0.01), Rng(0))


def value(
    penalty: ConditionalEntropy, z: Tensor, y: Tensor, std: Tensor | None, context: PenaltyContext | None = None
) -> Tensor:
    """Its one term, for a batch of features."""
    channel = None if std is None else GaussianChannel(z, std)
    trace = Trace(z, z, z.detach(), z.detach(), z.detach(), channel)
    terms = penalty(trace, context or context_of(y))
    assert list(terms) == ["conditional_entropy"]
    return terms["conditional_entropy"]


def flat(z: Tensor) -> np.ndarray:
    return z.detach().flatten(1).double().numpy()


def variance_of(std: Tensor, n: int) -> np.ndarray:
    return std.double().square().expand(n, *SHAPE).flatten(1).numpy()


# ------------------------------------------------------------------------------------------------ values


@each_noise
@pytest.mark.parametrize("covariance", ["diagonal", "isotropic"])
def test_bound_is_the_mean_per_dimension(covariance: str, std: Tensor) -> None:
    """float32 against the formula in float64: nats per dimension, a mean over samples."""
    penalty = fitted(std, covariance=covariance)
    z, y = features(2, 30)
    expected = reference.bound(flat(z), variance_of(std, 30), y.numpy(), reference.statistics_of(penalty.mixture))
    assert float(value(penalty, z, y, std)) == pytest.approx(expected.mean() / Q, rel=1e-5)


def test_thresholded_trace_is_the_formula() -> None:
    """With N_class the training samples per class, whatever share of them the mixture was fitted to."""
    penalty = ConditionalEntropy(CLASSES, Q, clusters=2, surrogate="thresholded_trace", threshold=2.0, fit_samples=100)
    penalty.on_epoch(Stream(*features(1, 400), torch.tensor(NOISE_STD)))
    z, y = features(2, 30)
    g = reference.statistics_of(penalty.mixture)
    expected = reference.thresholded_trace(flat(z), NOISE_STD**2, y.numpy(), g, 400 / CLASSES, 2.0)
    assert float(value(penalty, z, y, torch.tensor(NOISE_STD))) == pytest.approx(expected, rel=1e-5)


def test_thresholded_trace_has_one_variance_per_cluster() -> None:
    """Whatever covariance is asked for, which is that of the bound."""
    mixture = fitted(surrogate="thresholded_trace", covariance="diagonal").mixture
    assert mixture.variances.shape == (CLASSES, 2, 1)


@each_surrogate
def test_one_sample_and_absent_classes(surrogate: str) -> None:
    penalty = fitted(surrogate=surrogate)
    z, y = features(2, 30)
    std = torch.tensor(NOISE_STD)
    one = value(penalty, z[:1], y[:1], std)
    same = value(penalty, z[y == y[0]], y[y == y[0]], std)
    assert bool(torch.isfinite(one))
    assert bool(torch.isfinite(same))


@each_noise
def test_bound_of_a_batch_is_the_mean_of_its_halves(std: Tensor) -> None:
    penalty = fitted(std)
    z, y = features(2, 32)
    halves = [float(value(penalty, z[part], y[part], std)) for part in (slice(16), slice(16, 32))]
    assert float(value(penalty, z, y, std)) == pytest.approx(np.mean(halves), rel=1e-6)


@each_surrogate
def test_order_of_the_rows_does_not_matter(surrogate: str) -> None:
    penalty = fitted(surrogate=surrogate)
    z, y = features(2, 30)
    order = torch.from_numpy(np.random.default_rng(0).permutation(30))
    std = torch.tensor(NOISE_STD)
    assert float(value(penalty, z[order], y[order], std)) == pytest.approx(float(value(penalty, z, y, std)), rel=1e-6)


@each_surrogate
def test_labels_matter(surrogate: str) -> None:
    penalty = fitted(surrogate=surrogate)
    z, y = features(2, 30)
    std = torch.tensor(NOISE_STD)
    right, wrong = (float(value(penalty, z, labels, std)) for labels in (y, (y + 1) % CLASSES))
    assert wrong > 1.05 * right


@each_surrogate
def test_gradient_pulls_the_features_to_their_centroids(surrogate: str) -> None:
    """A step down the gradient lowers the value and the spread; the statistics do not move."""
    penalty = fitted(surrogate=surrogate)
    z, y = features(2, 40)
    std = torch.tensor(NOISE_STD)
    z.requires_grad_()
    before = value(penalty, z, y, std)
    (gradient,) = torch.autograd.grad(before, z)
    nearer = z.detach() - gradient / gradient.abs().max()
    component = penalty.mixture.component(z.detach().flatten(1), y)
    center = penalty.mixture.centroids.view(-1, Q)[component].view(z.shape)
    assert float(value(penalty, nearer, y, std)) < float(before.detach())
    assert float((nearer - center).square().mean()) < float((z.detach() - center).square().mean())
    assert not list(penalty.parameters())
    assert not any(buffer.requires_grad for buffer in penalty.buffers())


def test_half_precision_features_are_judged_in_single_precision() -> None:
    penalty = fitted()
    z, y = features(2, 30)
    found = value(penalty, z.half(), y, torch.tensor(NOISE_STD))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(value(penalty, z, y, torch.tensor(NOISE_STD))), rel=1e-2)


# ------------------------------------------------------------------------------------------------ fitting


@each_noise
def test_facts_of_an_epoch(std: Tensor) -> None:
    """The logged numbers, in float64; the bound is that of the noise of each dimension."""
    z, y = features(1, 400)
    penalty = ConditionalEntropy(CLASSES, Q, clusters=2)
    facts = penalty.on_epoch(Stream(z, y, std))
    g = reference.statistics_of(penalty.mixture)
    expected = reference.bound(flat(z), variance_of(std, 400), y.numpy(), g).mean()
    assert facts["theorem2_nats"] == pytest.approx(expected, rel=1e-4)
    variance = flat(z).var(0, ddof=1).mean()
    assert facts["feature_std"] == pytest.approx(variance**0.5, rel=1e-4)
    assert facts["noise_std"] == pytest.approx(variance_of(std, 1).mean() ** 0.5, rel=1e-4)
    assert facts["snr_db"] == pytest.approx(10 * np.log10(variance / variance_of(std, 1).mean()), abs=1e-3)
    component = penalty.mixture.component(z.flatten(1), y).numpy()
    deviation = flat(z) - g.centroids.reshape(-1, Q)[component]
    assert facts["within_cluster_std"] == pytest.approx(float((deviation**2).mean() ** 0.5), rel=1e-4)
    assert facts["empty_clusters"] == 0


def test_facts_count_empty_clusters() -> None:
    """Features that have collapsed to a point per class, as too large a weight makes them."""
    y = torch.arange(40) % CLASSES
    z = y.float().view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    facts = ConditionalEntropy(CLASSES, Q, clusters=3).on_epoch(Stream(z, y, torch.tensor(NOISE_STD)))
    assert facts["empty_clusters"] == 2 * CLASSES
    assert facts["within_cluster_std"] == pytest.approx(0.0, abs=1e-6)
    assert facts["theorem2_nats"] == pytest.approx(np.log(CLASSES), abs=1e-4)


def test_theorem_two_holds_for_the_fitted_features() -> None:
    penalty = ConditionalEntropy(CLASSES, Q, clusters=3)
    facts = penalty.on_epoch(Stream(*features(1, 400), torch.tensor(NOISE_STD)))
    expected = reference.theorem_two(NOISE_STD**2, reference.statistics_of(penalty.mixture))
    assert facts["theorem2_nats"] == pytest.approx(expected, rel=1e-5)


def test_fit_reads_no_more_than_it_needs() -> None:
    stream = Stream(*features(1, 400), torch.tensor(NOISE_STD))
    ConditionalEntropy(CLASSES, Q, clusters=2, fit_samples=120).on_epoch(stream)
    assert sum(stream.read) == 150


def test_chunks_of_the_stream_do_not_matter() -> None:
    mixtures = []
    for chunk in (50, 400):
        penalty = ConditionalEntropy(CLASSES, Q, clusters=2)
        penalty.on_epoch(Stream(*features(1, 400), torch.tensor(NOISE_STD), chunk=chunk))
        mixtures.append(penalty.mixture)
    assert torch.equal(mixtures[0].centroids, mixtures[1].centroids)
    assert torch.equal(mixtures[0].variances, mixtures[1].variances)


def test_later_epochs_start_from_the_last() -> None:
    """Another key draws other starts, but only for a first fit."""
    z, y = features(1, 400)
    std = torch.tensor(NOISE_STD)
    penalty = ConditionalEntropy(CLASSES, Q, clusters=4)
    for _ in range(6):  # until the stopping rule has no more say
        penalty.on_epoch(Stream(z, y, std))
    kept = penalty.mixture.centroids.clone()
    penalty.on_epoch(Stream(z, y, std, rng=Rng(5)))
    fresh = ConditionalEntropy(CLASSES, Q, clusters=4)
    fresh.on_epoch(Stream(z, y, std, rng=Rng(5)))
    assert float((penalty.mixture.centroids - kept).abs().max()) < 0.05
    assert float((fresh.mixture.centroids - kept).abs().max()) > 0.2


def test_built_from_the_spec_of_the_features() -> None:
    penalty = ConditionalEntropy.from_spec(
        FeatureSpec.of(SHAPE), CLASSES, Rng(0), (1, 8, 8), clusters=3, covariance="isotropic"
    )
    assert penalty.mixture.centroids.shape == (CLASSES, 3, Q)
    assert penalty.mixture.variances.shape == (CLASSES, 3, 1)


# ------------------------------------------------------------------------------------------------ choices


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "low_rank", "full"])
def test_it_compiles_without_a_break(covariance: str) -> None:
    """One graph: nothing in a step reads a number back to the host."""
    penalty = fitted(covariance=covariance, rank=2)
    z, y = features(2, 20)
    std = torch.tensor(NOISE_STD)
    context = context_of(y)
    compiled = torch.compile(lambda moved: value(penalty, moved, y, std, context), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z), value(penalty, z, y, std))


@pytest.mark.parametrize("covariance", ["diagonal", "low_rank", "full"])
def test_autocast_does_not_touch_it(covariance: str) -> None:
    penalty = fitted(covariance=covariance, rank=2)
    z, y = features(2, 20)
    std = torch.tensor(NOISE_STD)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(penalty, z, y, std)
    assert torch.equal(found, value(penalty, z, y, std))


def test_balanced_classes_count_the_same() -> None:
    """On classes of very different size: the mean over classes of their mean bounds, under equal class weights."""
    z, y = features(1, 400)
    kept = (y > 0) | (torch.arange(400) % 8 == 0)
    z, y = z[kept], y[kept]
    std = torch.tensor(NOISE_STD)
    penalty = ConditionalEntropy(CLASSES, Q, clusters=2, balance="classes")
    penalty.on_epoch(Stream(z, y, std))
    g = reference.statistics_of(penalty.mixture)
    np.testing.assert_allclose(g.weights.sum(1), 1 / CLASSES, rtol=1e-5)
    bounds = reference.bound(flat(z), variance_of(std, len(z)), y.numpy(), g)
    expected = np.mean([bounds[y.numpy() == label].mean() for label in range(CLASSES)]) / Q
    assert float(value(penalty, z, y, std)) == pytest.approx(expected, rel=1e-4)


def test_unlabeled_it_does_not_look_at_the_labels() -> None:
    penalty = fitted(balance="unlabeled", clusters=5)
    z, y = features(2, 30)
    std = torch.tensor(NOISE_STD)
    assert torch.equal(value(penalty, z, y, std), value(penalty, z, (y + 1) % CLASSES, std))
    expected = reference.bound(
        flat(z), variance_of(std, 30), np.zeros(30, int), reference.statistics_of(penalty.mixture)
    )
    assert float(value(penalty, z, y, std)) == pytest.approx(expected.mean() / Q, rel=1e-5)


def test_noise_that_depends_on_the_features_is_judged_by_its_mean() -> None:
    """V takes the mean over the training set, so a half batch says the same as in the whole."""
    z, y = features(1, 400)
    std = 0.1 + 0.05 * z.abs()
    penalty = ConditionalEntropy(CLASSES, Q, clusters=2)
    penalty.on_epoch(Stream(z, y, std[:1]))  # one row of noise for all, then a noise for each
    mean_noise = penalty.mixture.noise.double().numpy()
    expected = reference.bound(
        flat(z[:20]), flat(std[:20]) ** 2, y[:20].numpy(), reference.statistics_of(penalty.mixture), mean_noise
    )
    assert float(value(penalty, z[:20], y[:20], std[:20])) == pytest.approx(expected.mean() / Q, rel=1e-4)
    halves = [float(value(penalty, z[part], y[part], std[part])) for part in (slice(10), slice(10, 20))]
    assert float(value(penalty, z[:20], y[:20], std[:20])) == pytest.approx(np.mean(halves), rel=1e-5)


def test_a_learned_scale_of_noise_gets_a_gradient() -> None:
    """Downhill is more noise."""
    penalty = fitted()
    z, y = features(2, 30)
    std = torch.full(SHAPE, NOISE_STD, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(penalty, z, y, std), std)
    assert bool((gradient < 0).all())


# ------------------------------------------------------------------------------------------------ the ledger


def inspected(penalty: ConditionalEntropy, z: Tensor, y: Tensor, channel: GaussianChannel) -> dict[str, float]:
    trace = Trace(z, z, z, z, z, channel)
    context = PenaltyContext(nn.Identity(), y, TrainState(1, 0, 0.5, 0.01), Rng(0))
    return penalty.ledger(penalty.inspect(trace, context))


def test_the_ledger_bounds_held_out_pictures_with_confidence() -> None:
    penalty = fitted()
    z, y = features(5, 500)
    std = torch.tensor(NOISE_STD)
    facts = inspected(penalty, z, y, GaussianChannel(z, std, (-9.0, 9.0)))
    bounds = reference.bound(flat(z), variance_of(std, 500), y.numpy(), reference.statistics_of(penalty.mixture))
    assert facts["held_out_nats"] == pytest.approx(bounds.mean(), rel=1e-4)
    assert facts["ceiling_nats"] == pytest.approx(0.5 * Q * np.log1p(18.0**2 / (4 * NOISE_STD**2)), rel=1e-5)
    assert facts["held_out_nats"] < facts["upper_nats"] < facts["ceiling_nats"] + 5.0


@pytest.mark.parametrize("params", [{"projection": 5}, {"balance": "classes"}, {}])
def test_without_a_box_or_behind_a_projection_it_claims_no_confidence(params: dict[str, Any]) -> None:
    penalty = fitted(**params)
    z, y = features(5, 50)
    box = (-9.0, 9.0) if params else None
    assert set(inspected(penalty, z, y, GaussianChannel(z, torch.tensor(NOISE_STD), box))) == {"held_out_nats"}


def test_before_a_fit_there_is_no_ledger() -> None:
    z, y = features(5, 50)
    penalty = ConditionalEntropy(CLASSES, Q)
    context = PenaltyContext(nn.Identity(), y, TrainState(1, 0, 0.5, 0.01), Rng(0))
    assert penalty.inspect(Trace(z, z, z, z, z, GaussianChannel(z, torch.tensor(0.1))), context) == {}


# ------------------------------------------------------------------------------------------------ refusals


def test_without_gaussian_noise_there_is_no_bound() -> None:
    z, y = features(2, 30)
    with pytest.raises(SpecError, match="without noise the information"):
        value(fitted(), z, y, None)
    with pytest.raises(SpecError, match="add noise"):
        ConditionalEntropy(CLASSES, Q).on_epoch(Stream(z, y, None))
    with pytest.raises(SpecError, match="positive, finite variance"):
        ConditionalEntropy(CLASSES, Q).on_epoch(Stream(z, y, torch.tensor(0.0)))


@each_surrogate
def test_without_a_fit_there_is_no_value(surrogate: str) -> None:
    with pytest.raises(SpecError, match="start_epoch"):
        value(ConditionalEntropy(CLASSES, Q, surrogate=surrogate), *features(2, 30), torch.tensor(NOISE_STD))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"surrogate": "bond"}, UnknownNameError, "did you mean 'bound'"),
        ({"covariance": "diag"}, UnknownNameError, "did you mean 'diagonal'"),
        ({"fit_samples": 3}, SpecError, "at least the 4 classes"),
        ({"threshold": 0.0}, SpecError, "threshold > 0"),
        ({"clusters": 0}, SpecError, "clusters"),
        ({"balance": "class"}, UnknownNameError, "did you mean 'classes'"),
        ({"balance": "classes", "surrogate": "thresholded_trace"}, SpecError, "use 'bound'"),
        ({"projection": 13}, SpecError, "1 to 12 dimensions"),
    ],
)
def test_parameters_that_cannot_be_meant(params: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ConditionalEntropy(CLASSES, Q, **params)


def test_without_classes_there_may_be_more_of_them_than_features_to_fit_to() -> None:
    assert ConditionalEntropy(5000, 8, balance="unlabeled").mixture.classes == 1
    with pytest.raises(SpecError, match="at least the 5 classes, got 3"):
        ConditionalEntropy(5, 8, fit_samples=3)
