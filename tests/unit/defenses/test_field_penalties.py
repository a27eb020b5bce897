"""The penalties of the field against brute force, closed forms and other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from splitveil.contracts import FeatureSpec, GaussianChannel, NoiseSpec, Penalty, PenaltyContext, Trace, TrainState
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.defenses.penalties.adversarial_reconstruction import AdversarialReconstruction
from splitveil.defenses.penalties.adversary import Adversary
from splitveil.defenses.penalties.channel_sparsity import ChannelSparsity
from splitveil.defenses.penalties.dependence import hilbert_schmidt
from splitveil.defenses.penalties.distance_correlation import distance_correlation
from splitveil.defenses.penalties.head_similarity import HeadSimilarity
from splitveil.defenses.penalties.information_bottleneck import InformationBottleneck
from splitveil.defenses.penalties.lipschitz import Lipschitz
from splitveil.defenses.penalties.noise_power import NoisePower
from splitveil.errors import InputError, SpecError
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

STATE = TrainState(1, 0, 0.5, 0.01)


def rows(n: int, width: int, key: str) -> Tensor:
    return torch.randn(n, width, generator=Rng(2).child(key).generator(), dtype=torch.float64)


def value(penalty: Penalty, trace: Trace, model: nn.Module | None = None, y: Tensor | None = None) -> Tensor:
    labels = torch.zeros(len(trace.x), dtype=torch.int64) if y is None else y
    terms = penalty(trace, PenaltyContext(model or nn.Identity(), labels, STATE, Rng(0)))
    return torch.stack(list(terms.values())).sum()


def trace_of(x: Tensor, z: Tensor, channel: GaussianChannel | None = None) -> Trace:
    return Trace(x, z, z, z, z, channel)


@pytest.mark.parametrize("spread", [1.0, 0.02, 0.003])
def test_dependence_keeps_its_digits_where_features_vary_little(spread: float) -> None:
    """Conditional entropy shrinks features: the row with it would lose the penalty that the row without it has."""
    x, z = rows(48, 30, "pictures"), rows(48, 20, "features")
    z = spread * (z + x[:, :20])
    found = []
    for precision in (torch.float32, torch.float64):
        leaf = z.to(precision).requires_grad_()
        reached = hilbert_schmidt(x.to(precision), leaf)
        found.append((float(reached.detach()), torch.autograd.grad(reached, leaf)[0].double().flatten()))
    (short, slope), (exact, exact_slope) = found
    assert short == pytest.approx(exact, rel=1e-3)
    assert float(torch.cosine_similarity(slope, exact_slope, dim=0)) > 0.999


@pytest.mark.parametrize("statistic", [distance_correlation, hilbert_schmidt])
@pytest.mark.parametrize("spread", [0.02, 0.001])
@pytest.mark.parametrize("autocast", [False, True])
def test_statistics_of_pairs_are_of_what_differs_whatever_the_mean_and_autocast(
    statistic: Callable[[Tensor, Tensor], Tensor], spread: float, autocast: bool
) -> None:
    """Features behind a ReLU lie far from zero; a user's autocast must not make distances of bfloat16 products."""
    x = 0.5 + 0.3 * rows(64, 60, "pictures")
    z = 0.5 + spread * (rows(64, 512, "features") + x @ rows(60, 512, "mixing") / 8)
    found = []
    for precision in (torch.float32, torch.float64):
        leaf = z.to(precision).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and precision == torch.float32):
            reached = statistic(x.to(precision), leaf)
        found.append((float(reached.detach()), torch.autograd.grad(reached, leaf)[0].double().flatten()))
    (short, slope), (exact, exact_slope) = found
    assert short == pytest.approx(exact, rel=1e-3)
    assert float(torch.cosine_similarity(slope, exact_slope, dim=0)) > 0.999


def slow_distance_correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    centred = []
    for side in (a, b):
        distances = np.array([[np.linalg.norm(side[i] - side[j]) for j in range(n)] for i in range(n)])
        centred.append(
            [
                [distances[i, j] - distances[i].mean() - distances[:, j].mean() + distances.mean() for j in range(n)]
                for i in range(n)
            ]
        )
    first, second = np.array(centred[0]), np.array(centred[1])
    return float(np.sqrt((first * second).mean() / np.sqrt((first**2).mean() * (second**2).mean())))


def test_distance_correlation_is_that_of_its_definition() -> None:
    a = rows(9, 4, "a")
    b = a[:, :2].square() + 0.3 * rows(9, 2, "b")
    assert float(distance_correlation(a, b)) == pytest.approx(slow_distance_correlation(a.numpy(), b.numpy()), abs=1e-9)


def test_distance_correlation_sees_dependence_that_correlation_does_not() -> None:
    a = rows(400, 1, "a")
    assert float(distance_correlation(a, a.square())) > 0.4
    assert float(distance_correlation(a, rows(400, 1, "other"))) < 0.15
    turned = a @ torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    assert float(distance_correlation(a, turned * 7 + 3)) == pytest.approx(1.0, abs=1e-6)


def test_distance_correlation_has_a_finite_gradient_where_rows_are_equal() -> None:
    b = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(distance_correlation(torch.eye(4), b), b)
    assert bool(torch.isfinite(gradient).all())
    z = rows(5, 3, "z").requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: distance_correlation(rows(5, 2, "x"), moved), z)


def test_dependence_is_that_of_its_definition() -> None:
    a, b = rows(8, 3, "a").numpy(), rows(8, 2, "b").numpy()
    centring = np.eye(8) - np.ones((8, 8)) / 8

    def kernel(side: np.ndarray) -> np.ndarray:
        squares = ((side[:, None] - side[None]) ** 2).sum(2)
        return centring @ np.exp(-squares / (2 * 25 * side.shape[1])) @ centring

    first, second = kernel(a), kernel(b)
    expected = np.trace(first @ second) / np.sqrt(np.trace(first @ first) * np.trace(second @ second))
    assert float(hilbert_schmidt(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(expected, abs=1e-9)


def test_one_row_is_refused_by_statistics_of_pairs() -> None:
    for statistic in (distance_correlation, hilbert_schmidt):
        with pytest.raises(InputError, match="n >= 2 rows"):
            statistic(torch.zeros(1, 2), torch.zeros(1, 2))


def test_the_information_bottleneck_is_torchs_divergence() -> None:
    mean, std = rows(6, 5, "mean"), rows(6, 5, "std").exp()
    found = value(InformationBottleneck(), trace_of(mean, mean, GaussianChannel(mean, std)))
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(std)), 1)
    expected = kl_divergence(Independent(Normal(mean, std), 1), standard).mean() / 5
    torch.testing.assert_close(found, expected)


def test_the_stretch_of_linear_layers_is_that_of_their_matrices() -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False))
    model = SplitModel(SplitParts(head, nn.Linear(3, 2), (1, 2, 2)), Identity()).double()
    x = rows(7, 4, "x").reshape(7, 1, 2, 2)
    found = value(Lipschitz(perturbation_std=0.1), trace_of(x, x), model)
    drawn = SeededNoise(Rng(0)).draw(NoiseSpec("perturbation", (1, 2, 2), "standard_normal"), len(x))
    change = drawn.to(x).flatten(1)
    first = change @ head[1].weight.T
    second = first @ head[2].weight.T
    expected = first.norm(dim=1) / change.norm(dim=1) + second.norm(dim=1) / first.norm(dim=1)
    torch.testing.assert_close(found, expected.mean())


def test_lipschitz_forgets_its_hooks() -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(4, 6))
    model = SplitModel(SplitParts(head, nn.Linear(6, 2), (1, 2, 2)), Identity())
    value(Lipschitz(), trace_of(torch.rand(3, 1, 2, 2), torch.rand(3, 6)), model)
    assert not head[1]._forward_hooks


def adversary() -> AdversarialReconstruction:
    with Rng(0).scoped():
        return AdversarialReconstruction(
            FeatureSpec.of((2, 4, 4)), (1, 8, 8), channels=4, blocks=1, lr=1e-2, likeness="rmse", threshold=0.9
        )


def hidden(n: int = 32) -> Trace:
    """Features that hold every second pixel."""
    x = torch.rand(n, 1, 8, 8, generator=Rng(1).generator())
    z = torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], dim=1)
    return trace_of(x, z.requires_grad_())


def test_the_inner_decoder_learns_and_is_frozen_outside() -> None:
    penalty, trace = adversary(), hidden()
    before = value(penalty, trace).detach()
    for _ in range(60):
        penalty.on_step(trace, PenaltyContext(nn.Identity(), torch.zeros(32), STATE, Rng(0)))
    assert float(value(penalty, trace).detach()) > float(before)  # threshold - error: it errs less
    torch.autograd.backward(value(penalty, trace))
    assert trace.z.grad is not None
    assert float(trace.z.grad.abs().sum()) > 0
    assert all(not parameter.requires_grad for parameter in penalty.adversary.parameters())


def test_the_error_that_the_head_is_pushed_by_is_a_norm_with_a_cap() -> None:
    """By a norm the push does not fade where the decoder errs little, as by a square it would."""
    penalty, trace = adversary(), hidden()
    with torch.no_grad():
        drawn = penalty.adversary(trace.z)
    error = (drawn - trace.x).flatten(1).norm(dim=1) / 8
    assert float(value(penalty, trace).detach()) == pytest.approx(float((0.9 - error).mean()), rel=1e-5)
    penalty.threshold = float(error.median())
    assert float(value(penalty, trace).detach()) == pytest.approx(
        float((penalty.threshold - error).clamp_min(0).mean()), rel=1e-5
    )

    def push(distance: float) -> float:
        x = torch.full((1, 1, 8, 8), 0.5)
        guess = (x + distance).requires_grad_()
        penalty.threshold = 0.9
        near = AdversarialReconstruction._alike(penalty, guess, x).mean()
        (gradient,) = torch.autograd.grad(near, guess)
        return float(gradient.norm())

    assert push(0.01) == pytest.approx(push(0.3), rel=1e-4)
    assert np.isfinite(push(0.0))


def test_the_moments_of_the_inner_optimiser_are_part_of_the_state() -> None:
    """Saved and loaded, the next steps are the same bit for bit; with fresh moments they are not."""
    trace = hidden()
    context = PenaltyContext(nn.Identity(), torch.zeros(32), STATE, Rng(0))
    first, second, forgetful = adversary(), adversary(), adversary()
    for _ in range(5):
        first.on_step(trace, context)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second.load_state_dict(state)
    forgetful.load_state_dict(
        {name: tensor for name, tensor in state.items() if "_extra_state" not in name}, strict=False
    )
    for penalty in (first, second, forgetful):
        for _ in range(3):
            penalty.on_step(trace, context)
    assert torch.equal(value(first, trace), value(second, trace))
    assert not torch.equal(value(first, trace), value(forgetful, trace))


def test_an_adversary_without_steps_has_a_state_too() -> None:
    fresh = Adversary(nn.Linear(2, 2), 0.1)
    other = Adversary(nn.Linear(2, 2), 0.1)
    other.load_state_dict(fresh.state_dict())
    assert torch.equal(other.get_extra_state(), torch.zeros(1 + 2 * 6))


def test_beyond_the_threshold_nothing_pushes() -> None:
    penalty, trace = adversary(), hidden()
    penalty.threshold = 0.0
    assert float(value(penalty, trace).detach()) == 0.0


def test_noise_power_needs_noise_that_is_learned() -> None:
    model = SplitModel(SplitParts(nn.Identity(), nn.Flatten(), (1, 2, 2)), Gaussian(0.1))
    with pytest.raises(SpecError, match="expects one mechanism 'learned_noise', got 0"):
        value(NoisePower(), trace_of(torch.rand(2, 1, 2, 2), torch.rand(2, 1, 2, 2)), model)


def test_sparsity_needs_norms() -> None:
    model = SplitModel(SplitParts(nn.Conv2d(1, 2, 1), nn.Flatten(), (1, 2, 2)), Identity())
    with pytest.raises(SpecError, match="expects batch or group norms"):
        value(ChannelSparsity(), trace_of(torch.rand(2, 1, 2, 2), torch.rand(2, 2, 2, 2)), model)


def test_the_most_similar_head_counts() -> None:
    def model(weight: list[float]) -> SplitModel:
        head = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        with torch.no_grad():
            head[1].weight.copy_(torch.diag(torch.tensor(weight)))
        return SplitModel(SplitParts(head, nn.Linear(2, 2), (1, 1, 2)), Identity())

    penalty, x = HeadSimilarity(stages=["a", "b"]), torch.tensor([[[[1.0, 1.0]]]])
    penalty.attach(model([0.0, 0.0]))
    z = torch.tensor([[1.0, 0.0]])
    assert float(value(penalty, trace_of(x, z))) == 0.0
    penalty.on_stage_end("a", model([1.0, 1.0]))
    assert float(value(penalty, trace_of(x, z))) == pytest.approx(0.5**0.5)
    penalty.on_stage_end("other", model([1.0, 0.0]))
    assert float(value(penalty, trace_of(x, z))) == pytest.approx(0.5**0.5)
    penalty.on_stage_end("b", model([1.0, 0.0]))
    assert float(value(penalty, trace_of(x, z))) == pytest.approx(1.0)


def test_penalties_refuse_a_host_that_they_cannot_read() -> None:
    with pytest.raises(SpecError, match="Gaussian noise, got none"):
        value(InformationBottleneck(), trace_of(torch.rand(2, 1, 2, 2), torch.rand(2, 3)))
    wrong: list[dict[str, Any]] = [{"likeness": "lpips"}, {"threshold": 1.0}, {"pretrain": -1}]
    for bad in wrong:
        with pytest.raises(SpecError):
            AdversarialReconstruction(FeatureSpec.of((2, 4, 4)), (1, 8, 8), **bad)
