"""A search says honestly whether it had converged, and how far it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack_fixtures import KEY
from splitveil.attacks.priors import FlatPrior
from splitveil.attacks.search import Searching, SearchInverter
from splitveil.experiments.scoring import reconstruct
from splitveil.training.observer import Observer

STIFF = torch.logspace(0, 3, 12).reshape(3, 2, 2)  # a hundred times more curved along some pixels than along others


def search(steps: int, *, lr: float = 0.05, restarts: int = 1) -> SearchInverter:
    prior = FlatPrior(torch.zeros(3, 2, 2))
    return SearchInverter(lambda x: STIFF * x, prior, torch.tensor(1e-2), Searching(steps, lr, restarts), KEY)


def releases(n: int) -> Tensor:
    return STIFF * (0.2 + 0.6 * torch.rand((n, 3, 2, 2), generator=KEY.generator()))


def test_a_search_that_has_not_arrived_says_so_although_its_rate_is_spent() -> None:
    short, long = search(20), search(2000)
    for inverter in (short, long):
        inverter.invert(releases(4))
    assert short.facts["converged"] is False
    assert long.facts["converged"] is True
    assert long.facts["objective"] < 1e-3 * short.facts["objective"]


def test_the_second_cycle_never_makes_a_picture_worse() -> None:
    wild = search(40, lr=3.0)
    r = releases(4)
    again, objective, before = wild._search(r, wild._start(r, 0), [0])
    assert (objective <= before).all()
    torch.testing.assert_close(objective, wild._objective(again, r))


@pytest.mark.parametrize("rows", [1, 12])
def test_restarts_find_in_one_batch_what_they_find_one_by_one(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    r, together, apart = releases(5), search(30, restarts=4), search(30, restarts=4)
    found = together.invert(r)
    monkeypatch.setattr("splitveil.attacks.search._ROWS", rows)
    torch.testing.assert_close(found, apart.invert(r))
    assert together.facts == pytest.approx(apart.facts)


def test_the_restart_with_the_least_objective_counts() -> None:
    r, alone, several = releases(5), search(6), search(6, restarts=4)
    alone.invert(r)
    several.invert(r)
    assert several.facts["objective"] < alone.facts["objective"]


class Counting(Observer):
    def __init__(self) -> None:
        self.total, self.done, self.stopped = 0, 0, False

    def start(self, what: str, total: int, done: int) -> None:
        self.total, self.done = total, done

    def advance(self, text: str) -> None:
        self.done += 1

    def stop(self) -> None:
        self.stopped = True


@pytest.mark.parametrize("restarts", [1, 3])
def test_it_tells_of_every_picture_that_is_done(restarts: int) -> None:
    watching, inverter = Counting(), search(8, restarts=restarts)
    found = reconstruct(inverter, releases(700), watching)
    assert (watching.total, watching.done, watching.stopped) == (700, 700, True)
    assert inverter.progress is None
    torch.testing.assert_close(found, reconstruct(search(8, restarts=restarts), releases(700)))
