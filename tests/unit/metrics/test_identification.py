"""Rank accuracy against brute force over all ways to break ties."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.errors import InputError, SpecError
from splitveil.metrics.identification import chance_level, cumulative_match_curve, identity_scores, rank_accuracy
from splitveil.rng import Rng

INF = float("inf")


def by_lot(row: list[float], target: int, k: int) -> float:
    """The share of all orders of the candidates in which a stable sort puts the target among the first k."""
    orders = list(permutations(range(len(row))))
    return sum(target in sorted(order, key=lambda place: -row[place])[:k] for order in orders) / len(orders)


@given(
    rows=st.integers(1, 5).flatmap(
        lambda size: st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size), min_size=1)
    ),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_ties_are_broken_by_lot(rows: list[list[float]], data: st.DataObject) -> None:
    size = len(rows[0])
    rows = rows[:4]
    targets = [data.draw(st.integers(0, size - 1)) for _ in rows]
    scores, target = torch.tensor(rows), torch.tensor(targets)
    expected = [[by_lot(row, aim, k) for row, aim in zip(rows, targets, strict=True)] for k in range(1, size + 1)]
    for k in range(1, size + 1):
        torch.testing.assert_close(rank_accuracy(scores, target, k).tolist(), expected[k - 1])
    curve = cumulative_match_curve(scores, target)
    torch.testing.assert_close(curve, torch.tensor(expected, dtype=torch.float64).mean(1))
    assert float(curve[-1]) == 1.0


def test_one_who_scores_all_alike_is_at_chance() -> None:
    scores, target = torch.zeros(7, 40), torch.arange(7)
    for k in (1, 5, 40):
        torch.testing.assert_close(rank_accuracy(scores, target, k), torch.full((7,), chance_level(40, k)).double())


def test_absent_identities_cannot_win() -> None:
    scores = torch.tensor([[-INF, 0.1, -INF]])
    assert rank_accuracy(scores, torch.tensor([1])).tolist() == [1.0]
    with pytest.raises(InputError, match="expected every target in the gallery"):
        rank_accuracy(scores, torch.tensor([0]))


def test_the_best_picture_stands_for_its_identity() -> None:
    similarity = torch.randn(6, 9, generator=Rng(0).generator())
    identities = torch.tensor([0, 3, 1, 1, 0, 3, 3, 0, 1])
    got = identity_scores(similarity, identities, 4)
    for query in range(6):
        for person in range(4):
            own = [float(similarity[query, place]) for place in range(9) if int(identities[place]) == person]
            assert float(got[query, person]) == max(own, default=-INF)


def test_what_does_not_fit_is_refused() -> None:
    scores, target = torch.zeros(2, 3), torch.tensor([0, 1])
    for wrong, aims in (
        (scores[0], target),
        (scores, target[:1]),
        (scores[:, :0], target),
        (scores, target.float()),
        (scores, target > 0),
        (scores * torch.nan, target),
        (scores, torch.tensor([0, 3])),
        (scores, torch.tensor([-1, 0])),
    ):
        with pytest.raises(InputError, match="expected"):
            rank_accuracy(wrong, aims)
    for k in (0, 4):
        with pytest.raises(SpecError, match="expected 1 <= k <= 3"):
            rank_accuracy(scores, target, k)
        with pytest.raises(SpecError, match="expected 1 <= k <= identities"):
            chance_level(3, k)
    for identities in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1, 3])):
        with pytest.raises(InputError, match="expected"):
            identity_scores(scores, identities, 3)
