"""The shadow attack: no query, no pair, and still better than the mean picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_fixtures import BLACK_BOX, KEY, auxiliary, model, mse, smooth, table
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.shadow import Shadow, kernel_discrepancy
from splitveil.attacks.shadow_bodies import ShadowBodies
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError, ThreatModelError
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import ThreatModel

BLIND = ThreatModel(frozenset({"tail", "labels", "architecture"}))
SHORT: dict[str, Any] = {"channels": 8, "blocks": 1, "epochs": 12, "batch_size": 32, "lr": 5e-3, "shadow_batch": 64}


@pytest.fixture(scope="module")
def attacked() -> ModelSubject:
    """An invertible head with a little noise, and a tail that has learned the classes."""
    made = model(Gaussian(0.02))
    pictures = table(smooth(256, "training"))
    x, y = pictures.get(torch.arange(256))
    optimiser = torch.optim.Adam(made.tail.parameters(), lr=1e-2)
    r = made.release(x, noise=SeededNoise(KEY))
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(made.tail(r), y))
        optimiser.step()
    return ModelSubject(made)


def view_of(attacked: ModelSubject, threat: ThreatModel = BLIND) -> AttackerView:
    traffic = table(smooth(256, "traffic")).get(torch.arange(256))[0]
    return AttackerView(
        attacked,
        threat,
        auxiliary=auxiliary(256),
        rng=Rng(4),
        observed=lambda: attacked.release(traffic, SeededNoise(Rng(7))),
    )


def test_without_a_query_it_beats_the_mean_picture(attacked: ModelSubject) -> None:
    view = view_of(attacked)
    inverter = Shadow(**SHORT, shadow_epochs=30).fit(view, KEY)
    assert view.queries == 0
    assert not inverter.facts["fresh_noise"], "releases of its own substitute are no queries"
    assert mse(inverter, attacked) < 0.8 * mse(MeanImage().fit(view, KEY), attacked)
    history = inverter.facts["shadow"]
    assert history[-1]["task"] < 0.5 * history[0]["task"]


def test_it_repeats_under_its_key_and_leaves_the_tail_alone(attacked: ModelSubject) -> None:
    before = {name: value.clone() for name, value in attacked.model.state_dict().items()}
    short = Shadow(**{**SHORT, "epochs": 1}, shadow_epochs=1)
    first, second = (short.fit(view_of(attacked), KEY) for _ in range(2))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in attacked.model.state_dict().items())
    assert all(parameter.grad is None for parameter in attacked.model.head.parameters())


@pytest.mark.parametrize("grants", [{"tail"}, {"tail", "labels"}, {"tail", "architecture"}])
def test_it_makes_do_with_the_tail(attacked: ModelSubject, grants: set[Any]) -> None:
    short = Shadow(**{**SHORT, "epochs": 1}, shadow_epochs=1)
    inverter = short.fit(view_of(attacked, ThreatModel(frozenset(grants))), KEY)
    assert inverter.facts["queries"] == 0


def test_without_traffic_or_the_tail_it_is_refused(attacked: ModelSubject) -> None:
    silent = AttackerView(attacked, BLIND, auxiliary=auxiliary(64), rng=Rng(4))
    with pytest.raises(ThreatModelError, match="expected releases that passed the wire, got none"):
        Shadow(**SHORT).fit(silent, KEY)
    with pytest.raises(ThreatModelError, match="needs tail"):
        Shadow(**SHORT).fit(view_of(attacked, BLACK_BOX), KEY)


@pytest.mark.parametrize("changed", [{"match": -1.0}, {"shadow_epochs": 0}, {"shadow_lr": 0.0}, {"channels": 0}])
def test_what_cannot_be_meant_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        Shadow(**changed)


def test_the_discrepancy_against_brute_force_and_between_equal_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 3, generator=generator).double(), torch.randn(5, 3, generator=generator).double() + 0.5
    rows = torch.cat([a, b])
    level = float(sum((p - q).square().sum() for p in rows for q in rows) / len(rows) ** 2)

    def kernel(p: torch.Tensor, q: torch.Tensor) -> float:
        square = float((p - q).square().sum())
        return sum(float(torch.tensor(-square / (2 * width * level)).exp()) for width in (0.25, 0.5, 1, 2, 4)) / 5

    def mean(first: torch.Tensor, second: torch.Tensor) -> float:
        return sum(kernel(p, q) for p in first for q in second) / (len(first) * len(second))

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert float(kernel_discrepancy(a, b)) == pytest.approx(expected, rel=1e-5)
    same = torch.randn(400, 3, generator=generator)
    assert float(kernel_discrepancy(same[:200], same[200:])) < 0.1 * float(
        kernel_discrepancy(same[:200], same[200:] + 1)
    )


def ensemble(bodies: int = 3) -> ModelSubject:
    """An invertible head behind which the second of several bodies is the one that learned the classes."""
    made = model(Gaussian(0.02))
    pictures = table(smooth(256, "training"))
    x, y = pictures.get(torch.arange(256))
    r = made.release(x, noise=SeededNoise(KEY))
    classes = int(y.max()) + 1

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bodies = nn.ModuleList(
                nn.Sequential(nn.Flatten(), nn.Linear(r[0].numel(), classes)) for _ in range(bodies)
            )

        def forward(self, value: Tensor) -> Tensor:
            return torch.stack([body(value) for body in self.bodies], dim=1)

    with KEY.scoped():
        made.tail = Several()
    made.finish = nn.Flatten()
    useful = made.tail.bodies[1]
    optimiser = torch.optim.Adam(useful.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(useful(r), y))
        optimiser.step()
    return ModelSubject(made)


def test_of_an_ensemble_it_tries_every_body_and_all_and_keeps_the_best() -> None:
    attacked = ensemble()
    view = view_of(attacked)
    inverter = ShadowBodies(**SHORT, shadow_epochs=10).fit(view, KEY)
    told = inverter.facts["bodies"]
    assert [item["bodies"] for item in told["losses"]] == [[0], [1], [2], [0, 1, 2]]
    best = min(told["losses"], key=lambda item: item["loss"])
    assert told["chosen"] == best["bodies"]
    assert view.queries == 0
    assert mse(inverter, attacked) < mse(MeanImage().fit(view, KEY), attacked)


def test_subsets_of_two_are_tried_where_they_are_asked_for() -> None:
    short = ShadowBodies(**{**SHORT, "epochs": 1}, shadow_epochs=1, largest=2)
    told = short.fit(view_of(ensemble()), KEY).facts["bodies"]
    assert [item["bodies"] for item in told["losses"]][3:] == [[0, 1], [0, 2], [1, 2], [0, 1, 2]]


def test_of_one_body_it_is_the_shadow_attack(attacked: ModelSubject) -> None:
    told = ShadowBodies(**{**SHORT, "epochs": 1}, shadow_epochs=1).fit(view_of(attacked), KEY).facts["bodies"]
    assert told["chosen"] == [0]
    assert len(told["losses"]) == 1


def test_the_plain_shadow_reads_all_bodies(attacked: ModelSubject) -> None:
    inverter = Shadow(**{**SHORT, "epochs": 1}, shadow_epochs=2).fit(view_of(ensemble()), KEY)
    assert inverter.facts["shadow"][-1]["task"] < inverter.facts["shadow"][0]["task"]
