"""What a view hands out, what it counts, and what it keeps to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack_fixtures import (
    BLACK_BOX,
    CLASSES,
    PAIRS_ONLY,
    PICTURE,
    WHITE_BOX,
    Counting,
    auxiliary,
    budgeted,
    invertible_head,
    model,
    noisy,
    smooth,
    subject,
    view_of,
)
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.subjects import CallableSubject, ModelSubject
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import ContractError, InputError, ThreatModelError
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import Grant, ThreatModel

ASK = Rng(1).child("ask")
GRANTS: tuple[Grant, ...] = ("weights", "architecture", "query", "pairs", "tail", "labels")


def some(*indices: int) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64)


def pictures(n: int = 3) -> Tensor:
    return torch.rand(n, *PICTURE, generator=Rng(2).generator())


# ------------------------------------------------------------------------------------------------ grants

USES: dict[str, tuple[set[Grant], Callable[[AttackerView], Any]]] = {
    "release": ({"query"}, lambda view: view.release(pictures(), ASK)),
    "pairs": ({"query", "pairs"}, lambda view: view.pairs(some(0, 1), ASK)),
    "simulate": ({"weights"}, lambda view: view.simulate(pictures(), (torch.zeros(3, 4, 4, 4),))),
    "noise_specs": ({"weights"}, lambda view: view.noise_specs),
    "tail": ({"tail"}, lambda view: view.tail(torch.zeros(2, 4, 4, 4))),
    "architecture": ({"architecture"}, lambda view: view.architecture(Rng(0))),
    "labels": ({"labels"}, lambda view: view.labels),
}


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize("use", USES)
def test_each_door_opens_with_its_grant_alone(use: str, grant: Grant) -> None:
    sufficient, call = USES[use]
    view = view_of(ModelSubject(noisy()), ThreatModel(frozenset({grant})))
    if grant in sufficient:
        assert call(view) is not None
        return
    with pytest.raises(ThreatModelError, match=rf"expected a threat model that grants .*, got one that grants {grant}"):
        call(view)
    assert view.queries == 0


@pytest.mark.parametrize("use", USES)
def test_without_any_grant_every_door_is_shut(use: str) -> None:
    with pytest.raises(ThreatModelError, match="got one that grants nothing: choose another attack or threat"):
        USES[use][1](view_of(subject(), ThreatModel(frozenset())))


def test_all_but_one_grant_does_not_open_the_door() -> None:
    for use, (sufficient, call) in USES.items():
        view = view_of(ModelSubject(noisy()), ThreatModel(frozenset(GRANTS) - sufficient))
        with pytest.raises(ThreatModelError):
            call(view)
        assert view.queries == 0, use


@pytest.mark.parametrize("grant", ["weights", "architecture", "tail"])
def test_a_subject_cannot_give_what_it_does_not_offer(grant: Grant) -> None:
    black_box = CallableSubject(lambda x: x.flatten(1), PICTURE)
    with pytest.raises(ThreatModelError, match=rf"\(labels, pairs, query\), got one that grants {grant} too"):
        view_of(black_box, ThreatModel(frozenset({"query", grant})))


def test_a_subject_that_offers_weights_must_have_some() -> None:
    black_box = CallableSubject(lambda x: x.flatten(1), PICTURE)
    black_box.offers = WHITE_BOX.grants
    view = view_of(black_box, WHITE_BOX)
    for use in ("simulate", "noise_specs", "tail", "architecture"):
        with pytest.raises(ContractError, match="expected a ModelSubject"):
            USES[use][1](view)


def test_another_view_is_refused() -> None:
    view = view_of(subject())
    assert attacker_view(view) is view
    with pytest.raises(ContractError, match="expected an AttackerView, got object"):
        attacker_view(object())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ auxiliary pictures


def test_auxiliary_pictures_come_without_labels() -> None:
    view = view_of(subject(), PAIRS_ONLY)
    held = view.auxiliary
    assert len(held) == 48
    assert held.device == torch.device("cpu")
    x = held.get(some(3, 0))
    torch.testing.assert_close(x, smooth(48)[[3, 0]].float() / 255, rtol=0.0, atol=1e-7)
    torch.testing.assert_close(torch.cat(list(held.batches(7))), smooth(48).float() / 255, rtol=0.0, atol=1e-7)
    assert not [name for name in dir(held) if "label" in name]
    with pytest.raises(ThreatModelError, match="grants 'labels'"):
        _ = view.labels


def test_labels_are_a_grant_of_their_own() -> None:
    view = view_of(subject(), ThreatModel(frozenset({"labels"})))
    assert torch.equal(view.labels, torch.arange(48) % CLASSES)


@pytest.mark.parametrize("use", ["auxiliary", "labels", "pairs", "affordable"])
def test_without_auxiliary_pictures_there_are_none(use: str) -> None:
    calls: dict[str, Callable[[AttackerView], Any]] = {
        "auxiliary": lambda view: view.auxiliary,
        "labels": lambda view: view.labels,
        "pairs": lambda view: view.pairs(some(0), ASK),
        "affordable": lambda view: view.affordable(1),
    }
    none = ThreatModel(WHITE_BOX.grants, auxiliary="none")
    for view in (
        AttackerView(subject(), none, auxiliary=auxiliary(), rng=Rng(0)),
        AttackerView(subject(), WHITE_BOX, auxiliary=None, rng=Rng(0)),
    ):
        with pytest.raises(ThreatModelError, match="expected auxiliary pictures, got none"):
            calls[use](view)
        with pytest.raises(ThreatModelError, match="expected auxiliary pictures, got none"):
            MeanImage().fit(view, Rng(0))


@pytest.mark.parametrize("threat", [BLACK_BOX, PAIRS_ONLY], ids=["black_box", "pairs_only"])
@pytest.mark.parametrize("index", [-1, 48, 10**9])
def test_a_picture_that_is_not_there_is_refused(threat: ThreatModel, index: int) -> None:
    """A negative index would be another name of a picture, with noise of its own: a second release of it."""
    view = view_of(ModelSubject(noisy()), threat)
    with pytest.raises(InputError, match="expected indices from 0 to 47"):
        view.pairs(some(0, index), ASK)
    assert view.queries == 0


# ------------------------------------------------------------------------------------------------ queries


def test_a_query_is_answered_by_the_subject() -> None:
    attacked = ModelSubject(noisy())
    view, x = view_of(attacked, BLACK_BOX), pictures()
    r = view.release(x, ASK)
    assert torch.equal(r, attacked.release(x, SeededNoise(ASK)))
    assert torch.equal(r, view.release(x, ASK))
    assert not torch.equal(r, view.release(x, ASK.child("again")))
    assert view.queries == 9


@given(asked=st.lists(st.integers(0, 6), max_size=6), budget=st.integers(0, 20), observations=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_queries_are_counted_per_picture_and_observation(asked: list[int], budget: int, observations: int) -> None:
    """Compared with a count at the subject; a refused question costs nothing and leaves the rest."""
    counting = Counting(ModelSubject(noisy()))
    view = view_of(counting, budgeted(budget, observations=observations))
    spent = 0
    for index, n in enumerate(asked):
        cost = n * observations
        if spent + cost > budget:
            with pytest.raises(
                ThreatModelError, match=rf"expected at most {budget} queries, got {spent} and {cost} more"
            ):
                view.release(pictures(n), ASK.child(index))
        else:
            view.release(pictures(n), ASK.child(index))
            spent += cost
        assert view.queries == counting.count == spent
        assert view.queries_left == budget - spent


def test_without_a_budget_nothing_is_left_to_count() -> None:
    view = view_of(subject())
    view.release(pictures(), ASK)
    assert view.queries == 3
    assert view.queries_left is None


def test_pairs_of_one_who_may_query_are_fresh() -> None:
    view = view_of(ModelSubject(noisy()), BLACK_BOX)
    x, first = view.pairs(some(4, 7), ASK)
    torch.testing.assert_close(x, smooth(48)[[4, 7]].float() / 255, rtol=0.0, atol=1e-7)
    assert not torch.equal(first, view.pairs(some(4, 7), ASK.child(1))[1])
    assert view.queries == 4


def test_observations_are_averaged() -> None:
    """The mean of m releases under different keys, and its noise is smaller by the root of m."""
    attacked, x = ModelSubject(noisy(0.5)), pictures(64)
    view = view_of(attacked, ThreatModel(BLACK_BOX.grants, observations=16))
    r = view.release(x, ASK)
    single = [attacked.release(x, SeededNoise(ASK.child("observation", m))) for m in range(16)]
    torch.testing.assert_close(r, torch.stack(single).mean(0))
    clean = model().release(x, noise=SeededNoise(ASK))
    assert float((r - clean).std()) == pytest.approx(0.5 / 4, rel=0.05)
    assert view.queries == 16 * 64


def test_the_mechanism_says_what_observations_amount_to() -> None:
    class Largest(Gaussian):
        def combine(self, r: Tensor) -> Tensor:
            return r.amax(dim=1)

    attacked = subject(Largest(0.5))
    r = view_of(attacked, ThreatModel(BLACK_BOX.grants, observations=5)).release(pictures(), ASK)
    single = [attacked.release(pictures(), SeededNoise(ASK.child("observation", m))) for m in range(5)]
    assert torch.equal(r, torch.stack(single).amax(0))


# ------------------------------------------------------------------------------------------------ pairs alone


@given(data=st.data(), observations=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_pairs_alone_are_one_release_of_each_picture(data: st.DataObject, observations: int) -> None:
    """Whatever the batch, its order, its repetitions and the key; each picture is paid for once."""
    view = view_of(
        ModelSubject(noisy()), ThreatModel(PAIRS_ONLY.grants, observations=observations), pictures=auxiliary(80)
    )
    reference = view_of(
        ModelSubject(noisy()), ThreatModel(PAIRS_ONLY.grants, observations=observations), pictures=auxiliary(80)
    )
    everything = reference.pairs(torch.arange(80), ASK)[1]
    asked: set[int] = set()
    for step in range(3):
        indices = data.draw(st.lists(st.integers(0, 79), max_size=8))
        x, r = view.pairs(some(*indices), ASK.child(step))
        asked.update(indices)
        torch.testing.assert_close(r, everything[indices], rtol=0.0, atol=1e-6)
        torch.testing.assert_close(x, smooth(80)[indices].float() / 255, rtol=0.0, atol=1e-7)
        assert view.queries == len(asked) * observations


def test_pairs_alone_differ_between_pictures_and_views() -> None:
    def releases(seed: int) -> Tensor:
        silent = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        nn.init.zeros_(silent[1].weight)
        nn.init.zeros_(silent[1].bias)
        flat = ModelSubject(model(Gaussian(0.1), silent))  # the release is the noise
        return view_of(flat, PAIRS_ONLY, seed=seed).pairs(torch.arange(48), ASK)[1]

    first = releases(4)
    assert len(torch.unique(first, dim=0)) == 48
    assert torch.equal(first, releases(4))
    assert not bool((first == releases(5)).any())


def test_pairs_alone_have_a_budget_too() -> None:
    view = view_of(ModelSubject(noisy()), budgeted(5, PAIRS_ONLY))
    first = view.pairs(some(1, 2, 3), ASK)[1]
    with pytest.raises(ThreatModelError, match="expected at most 5 queries, got 3 and 3 more"):
        view.pairs(some(3, 4, 5, 6), ASK)
    assert view.queries == 3
    torch.testing.assert_close(view.pairs(some(3, 2, 1, 1), ASK)[1], first[[2, 1, 0, 0]], rtol=0.0, atol=1e-6)
    view.pairs(some(4, 5), ASK)  # a refused question has bought nothing
    assert view.queries == 5


# ------------------------------------------------------------------------------------------------ what is affordable


@given(
    n=st.integers(1, 60),
    budget=st.one_of(st.none(), st.integers(0, 100)),
    observations=st.integers(1, 4),
    fewest=st.integers(1, 10),
    most=st.one_of(st.none(), st.integers(10, 50)),
)
@settings(max_examples=20, deadline=None)
def test_what_is_affordable_can_be_paid_for(
    n: int, budget: int | None, observations: int, fewest: int, most: int | None
) -> None:
    view = view_of(ModelSubject(noisy()), budgeted(budget, observations=observations), auxiliary(n))
    paid = n if budget is None else min(n, budget // observations)
    if n < fewest:
        with pytest.raises(InputError, match=f"expected at least {fewest} auxiliary pictures, got {n}"):
            view.affordable(fewest, most)
        return
    if paid < fewest:
        with pytest.raises(ThreatModelError, match=f"a budget of at least {fewest * observations} queries"):
            view.affordable(fewest, most)
        return
    count = view.affordable(fewest, most)
    assert count == min(paid, n if most is None else most)
    view.pairs(torch.arange(count), ASK)
    assert view.queries == count * observations


def test_what_was_spent_is_no_longer_affordable() -> None:
    view = view_of(subject(), budgeted(20))
    assert view.affordable(1) == 20
    view.release(pictures(15), ASK)
    assert view.affordable(5) == 5
    with pytest.raises(ThreatModelError, match="expected a budget of at least 6 queries, got 5"):
        view.affordable(6)


# ------------------------------------------------------------------------------------------------ the white box


def test_simulating_is_the_release_with_a_gradient_and_costs_nothing() -> None:
    attacked = subject(Gaussian(0.1), invertible_head(nn.Dropout(0.5)))
    attacked.model.train()
    view = view_of(attacked, budgeted(0, WHITE_BOX))
    x = pictures().requires_grad_()
    noises = tuple(SeededNoise(ASK).draw(spec, 3) for spec in view.noise_specs)
    r = view.simulate(x, noises)
    assert torch.equal(r, attacked.release(x, SeededNoise(ASK)))
    (gradient,) = torch.autograd.grad(r.sum(), x)
    assert bool((gradient != 0).any())
    assert view.queries == 0
    assert all(module.training for module in attacked.model.modules())
    assert all(parameter.grad is None for parameter in attacked.model.parameters())


def test_the_tail_is_what_the_cloud_holds() -> None:
    attacked = subject()
    r = torch.rand(2, 4, 4, 4, generator=Rng(0).generator()).requires_grad_()
    reply = view_of(attacked).tail(r)
    assert torch.equal(reply, attacked.model.tail(r))
    assert reply.requires_grad


def test_the_architecture_has_fresh_weights_and_keeps_the_head() -> None:
    head = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 4))
    attacked = subject(head=head)
    nn.init.constant_(head[1].running_mean, 5.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    build = view_of(attacked).architecture
    first, again, other = build(Rng(0)), build(Rng(0)), build(Rng(1))
    for name in ("0.weight", "0.bias", "3.weight", "3.bias"):
        values = [copy.state_dict()[name] for copy in (first, again, other, head)]
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])
        assert not torch.equal(values[0], values[3])
    assert not bool(first.state_dict()["1.running_mean"].any())
    assert all(torch.equal(value, head.state_dict()[name]) for name, value in before.items())
    assert first(pictures()).shape == (3, 4)


# ------------------------------------------------------------------------------------------------ black boxes


def test_a_callable_is_asked_without_gradient() -> None:
    weight = torch.ones(64, 3, requires_grad=True)
    black_box = CallableSubject(lambda x: (x.flatten(1) @ weight).double(), PICTURE)
    r = view_of(black_box).release(pictures(), ASK)
    assert r.shape == (3, 3)
    assert r.dtype == torch.float32
    assert not r.requires_grad


@pytest.mark.parametrize(
    "result",
    [
        lambda x: x.flatten(1)[:1],
        lambda x: x.sum(),
        lambda x: x.flatten(1).sum(1),
        lambda x: x.flatten(1).long(),
        lambda x: x.flatten(1).numpy(),
        lambda x: None,
    ],
    ids=["rows", "scalar", "one_axis", "whole_numbers", "numpy", "none"],
)
def test_a_callable_that_returns_something_else_is_refused(result: Callable[[Tensor], Any]) -> None:
    with pytest.raises(InputError, match="expected a float tensor with 2 rows from the callable"):
        CallableSubject(result, PICTURE)


def test_a_callable_must_keep_its_shape() -> None:
    widths = iter([3, 4])
    black_box = CallableSubject(lambda x: x.flatten(1)[:, : next(widths)], PICTURE)
    with pytest.raises(InputError, match=r"expected r of shape \(n, 3\)"):
        view_of(black_box).release(pictures(), ASK)
