"""The objective in a loop of a user's: the same losses as ours, its own count, and a state that goes on."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import splitveil as sv
from splitveil.contracts import TrainState
from splitveil.errors import InputError, SpecError, UsageError
from splitveil.rng import Rng
from splitveil.training.own_loop import OwnLoop
from splitveil.training.regression import Regression

CEM = sv.defenses.cem(noise_std=0.1, clusters=1)


def make(defense: Any = CEM, **changes: Any) -> OwnLoop:
    parts = sv.factory("small", classes=2, input_shape=(1, 8, 8), width=0.5)
    return sv.objective(parts, defense, **{"classes": 2, "epochs": 4, **changes})


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = Rng(3).generator()
    return [(torch.rand(8, 1, 8, 8, generator=generator), torch.arange(8) % 2) for _ in range(4)]


def test_its_losses_are_those_of_the_objective_at_the_same_place() -> None:
    loop, [(x, y), *_] = make(), batches()
    model, objective = sv.protect(
        sv.factory("small", classes=2, input_shape=(1, 8, 8), width=0.5), CEM, classes=2, seed=0
    )
    for ours, theirs in zip(loop.model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    epoch = 2  # before that the weight is 0
    for _ in range(epoch + 1):
        facts = loop.start_epoch(batches())
        assert facts["conditional_entropy"]["noise_std"] == pytest.approx(0.1)
    for item, penalty in zip(objective.penalties, loop.penalties.values(), strict=True):
        item.penalty.load_state_dict(penalty.state_dict())
    for step in range(2):
        found = loop(x, y)
        state = TrainState(epoch, step, (epoch + step / 4) / 4, 0.0)
        expected = objective(x, y, state)
        assert found.weights == expected.weights
        assert found.weights["conditional_entropy"] > 0
        assert torch.equal(found.total, expected.total)
        assert found.terms.keys() == expected.terms.keys()
        assert all(torch.equal(value, expected.terms[name]) for name, value in found.terms.items())


def test_the_total_is_the_sum_of_the_terms_and_trains_the_head() -> None:
    loop = make(epochs=1)
    loop.start_epoch(batches())
    for x, y in batches():
        losses = loop(x, y)
        weight = losses.weights["conditional_entropy"]
        expected = losses.terms["task"] + weight * losses.terms.get("conditional_entropy", torch.zeros(()))
        torch.testing.assert_close(losses.total, expected)
    losses.backward()
    assert all(parameter.grad is not None for parameter in loop.model.head.parameters())
    loop.eval()
    step = loop.step
    loop(x, y)
    assert loop.step == step  # to look is not to train


def test_a_checkpoint_of_a_module_around_it_goes_on() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.objective = make()

    first, second = Around(), Around()
    for _ in range(3):
        first.objective.start_epoch(batches())
    second.load_state_dict(first.state_dict())
    x, y = batches()[0]
    first.eval()
    second.eval()
    assert second.objective.epoch == 2
    first.objective.step = second.objective.step = first.objective._steps = 0
    assert torch.equal(second.objective(x, y).total, first.objective(x, y).total)


def test_adversaries_are_not_for_the_optimiser() -> None:
    loop = make(sv.defenses.ressfl(noise_std=0.1))
    own = {id(parameter) for parameter in loop.model.parameters()}
    assert any(id(parameter) not in own for parameter in loop.parameters())
    loop.start_epoch(batches())
    x, y = batches()[0]
    loop(x, y).backward()


@pytest.mark.parametrize(
    "defense",
    [sv.defenses.ensembler(), sv.defenses.shredder(), sv.defenses.patrol(), sv.defenses.cem(budget_points=0.5)],
    ids=lambda item: item.name,
)
@pytest.mark.parametrize("make_loop", [sv.protect, partial(sv.objective, epochs=4)], ids=["protect", "objective"])
def test_stages_that_would_never_run_are_refused(make_loop: Any, defense: Any) -> None:
    parts = sv.factory("small", classes=2, input_shape=(1, 8, 8), width=0.5)
    with pytest.raises(SpecError, match=f"one plain stage .*, got '{defense.name}' with .*: train it by"):
        make_loop(parts, defense, classes=2)


def test_what_a_loop_cannot_do_is_said() -> None:
    with pytest.raises(SpecError, match="one plain stage for a loop of your own, got 'cem' with reference, "):
        make(sv.defenses.cem(budget_points=0.5))
    with pytest.raises(SpecError, match="expected epochs >= 1, got 0"):
        make(epochs=0)
    loop, [(x, y), *_] = make(), batches()
    with pytest.raises(UsageError, match="call start_epoch"):
        loop(x, y)
    with pytest.raises(InputError, match="batches of pictures and labels, got dict"):
        loop.start_epoch([{"image": x, "label": y}])
    with pytest.raises(InputError, match="expected batches of pictures and labels, got Tensor"):
        loop.start_epoch([x])
    loop.start_epoch(batches())
    with pytest.raises(InputError, match="floating point"):
        loop((x * 255).byte(), y)


def test_another_task_tells_penalties_its_groups() -> None:
    parts = sv.factory("small", classes=2, input_shape=(1, 8, 8), width=0.5)
    loop = sv.objective(parts, CEM, classes=5, epochs=1, task=Regression([0.0, 0.0], [1.0, 1.0]))
    assert loop.classes == 1
    x, y = torch.rand(8, 1, 8, 8, generator=Rng(3).generator()), torch.rand(8, 2, generator=Rng(4).generator())
    loop.start_epoch([(x, y)])
    losses = loop(x, y)
    losses.backward()
    assert losses.score.shape == (8,)


class _Stream(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter(pair for x, y in batches() for pair in zip(x, y, strict=True))


class _Unsized:
    def __iter__(self) -> Any:
        return iter(batches())


@pytest.mark.parametrize("given", [torch.utils.data.DataLoader(_Stream(), batch_size=8), _Unsized()])
def test_batches_without_a_length_warm_up_by_the_epoch_before(given: Any) -> None:
    loop, weights = make(epochs=8), list[float]()
    for _ in range(2):
        loop.start_epoch(given)
        for x, y in given:
            weights.append(loop(x, y).weights["conditional_entropy"])
    assert weights == sorted(weights)
    assert weights[-1] > weights[-2] > 0, "it rises within an epoch too"
    with pytest.raises(InputError, match="that know their number for a single epoch"):
        make(epochs=1).start_epoch(given)


def test_batches_that_can_be_read_once_are_refused() -> None:
    with pytest.raises(InputError, match="read again and again, got a generator"):
        make().start_epoch(pair for pair in batches())


def test_a_schedule_that_follows_the_rate_asks_for_it() -> None:
    papers = sv.defenses.cem(
        noise_std=0.1, clusters=1, weight=16.0, surrogate="thresholded_trace", schedule="lr_coupled"
    )
    loop, [(x, y), *_] = make(papers), batches()
    for _ in range(2):
        loop.start_epoch(batches())
    with pytest.raises(SpecError, match="expected the learning rate"):
        loop(x, y)
    assert loop(x, y, lr=0.05).weights["conditional_entropy"] == pytest.approx(0.32)
