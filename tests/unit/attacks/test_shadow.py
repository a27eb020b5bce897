"""The shadow attack: no query, no pair, and still better than the mean picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_fixtures import BLACK_BOX, CLASSES, KEY, auxiliary, model, mse, smooth, table
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.shadow import Learned, Shadow, kernel_discrepancy
from splitveil.attacks.shadow_bodies import ShadowBodies
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
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


def view_of(attacked: ModelSubject, threat: ThreatModel = BLIND, pictures: int = 256) -> AttackerView:
    traffic = table(smooth(256, "traffic")).get(torch.arange(256))[0]
    return AttackerView(
        attacked,
        threat,
        auxiliary=auxiliary(pictures),
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


class Several(nn.Module):
    """Bodies that all answer."""

    def __init__(self, bodies: list[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, r: Tensor) -> Tensor:
        return torch.stack([body(r) for body in self.bodies], dim=1)


def network(seed: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A head, a body and a classifier."""
    with Rng(seed).scoped():
        head = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1), nn.Sigmoid())
        return head, nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, CLASSES)


def learn(network: tuple[nn.Module, ...], trained: tuple[nn.Module, ...], seed: int) -> None:
    x, y = table(smooth(256, "training")).get(torch.arange(256))
    head, body, classifier = network
    optimiser = torch.optim.Adam([value for part in trained for value in part.parameters()], lr=5e-3)
    generator = Rng(seed).generator()
    for _ in range(100):
        noise = 0.02 * torch.randn((len(x), 4, 4, 4), generator=generator)
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(classifier(body(head(x) + noise)), y))
        optimiser.step()


@pytest.fixture(scope="module")
def ensembled() -> ModelSubject:
    """Three networks that learned apart, and a head that learned to work through the body of the second."""
    networks = [network(seed) for seed in range(3)]
    for seed, parts in enumerate(networks):
        learn(parts, parts, seed)
    head, _, classifier = network(9)
    learn((head, networks[1][1], classifier), (head, classifier), 9)
    made = model(Gaussian(0.02), head)
    made.tail, made.finish = Several([body for _, body, _ in networks]), nn.Flatten()
    return ModelSubject(made)


ENSEMBLE: dict[str, Any] = {**SHORT, "shadow_epochs": 10}
HURRIED: dict[str, Any] = {**SHORT, "epochs": 1, "shadow_epochs": 1}
WITH_PAIRS = ThreatModel(BLIND.grants | {"pairs"})


def test_of_an_ensemble_it_keeps_the_subset_that_inverts_best(ensembled: ModelSubject) -> None:
    """Not the one that its substitute works best with, which is the whole: its reader holds every subset's."""
    view, attack = view_of(ensembled, WITH_PAIRS, 512), ShadowBodies(**ENSEMBLE)
    inverter = attack.fit(view, KEY)
    told = inverter.facts["bodies"]
    assert [item["bodies"] for item in told["tried"]] == [[0], [1], [2], [0, 1, 2]]
    assert (told["by"], inverter.facts["held_out_pairs"], view.queries) == ("error", 51, 51)
    scored = {}
    for bodies in ((0,), (1,), (2,), None):
        substitute = attack._shadow(
            view, KEY.child("shadow", *(bodies or ("all",))), torch.arange(512), bodies
        ).substitute
        scored[tuple(bodies or range(3))] = mse(attack._invert(view, substitute, KEY), ensembled)
    fits_best = min(told["tried"], key=lambda item: item["loss"])["bodies"]
    assert scored[tuple(told["chosen"])] == min(scored.values())
    assert mse(inverter, ensembled) < 0.8 * scored[tuple(fits_best)]
    assert mse(inverter, ensembled) < 0.8 * mse(MeanImage().fit(view, KEY), ensembled)


class Watched(ShadowBodies):
    """Remembers what its substitutes learn from, and what judges them."""

    learned: ClassVar[list[Tensor]] = []
    judged: ClassVar[list[Tensor]] = []

    def _shadow(self, view: AttackerView, rng: Rng, among: Tensor, bodies: Any = None) -> Learned:
        self.learned.append(among)
        return super()._shadow(view, rng, among, bodies)

    def _loss(self, view: AttackerView, learned: Learned, indices: Tensor, rng: Rng) -> float:
        self.judged.append(indices)
        return super()._loss(view, learned, indices, rng)


def test_without_pairs_pictures_that_no_substitute_has_seen_judge_by_the_loss(ensembled: ModelSubject) -> None:
    view = view_of(ensembled)
    told = Watched(**HURRIED).fit(view, KEY).facts["bodies"]
    assert (told["by"], view.queries) == ("loss", 0)
    assert all(item["error"] is None for item in told["tried"])
    assert told["chosen"] == min(told["tried"], key=lambda item: item["loss"])["bodies"]
    assert len(Watched.learned) == len(Watched.judged) == 4
    for learned, judged in zip(Watched.learned, Watched.judged, strict=True):
        assert sorted([*learned.tolist(), *judged.tolist()]) == list(range(256))
        assert torch.equal(judged, Watched.judged[0])


@pytest.mark.parametrize(("budget", "by", "queries"), [(3, "loss", 0), (12, "error", 12)])
def test_pairs_judge_as_far_as_they_are_paid_for(ensembled: ModelSubject, budget: int, by: str, queries: int) -> None:
    view = view_of(ensembled, replace(WITH_PAIRS, query_budget=budget))
    assert ShadowBodies(**HURRIED).fit(view, KEY).facts["bodies"]["by"] == by
    assert view.queries == queries


def test_subsets_of_two_are_tried_where_they_are_asked_for(ensembled: ModelSubject) -> None:
    told = ShadowBodies(**HURRIED, largest=2).fit(view_of(ensembled), KEY).facts["bodies"]
    assert [item["bodies"] for item in told["tried"]][3:] == [[0, 1], [0, 2], [1, 2], [0, 1, 2]]


def test_of_one_body_it_is_the_shadow_attack(attacked: ModelSubject) -> None:
    one, plain = (kind(**HURRIED).fit(view_of(attacked), KEY) for kind in (ShadowBodies, Shadow))
    assert one.facts["bodies"] == {"chosen": [0], "by": "nothing else to try", "tried": []}
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_plain_shadow_reads_all_bodies(ensembled: ModelSubject) -> None:
    inverter = Shadow(**{**SHORT, "epochs": 1}, shadow_epochs=2).fit(view_of(ensembled), KEY)
    assert inverter.facts["shadow"][-1]["task"] < inverter.facts["shadow"][0]["task"]


def test_labels_of_another_data_set_are_not_the_tasks(attacked: ModelSubject) -> None:
    """Its classes are others, and may be more: the substitute then learns as if nobody had told it any."""
    threat = replace(BLIND, auxiliary="shifted", shift="some/folder")
    images = smooth(64)
    foreign = Pictures(ImageTable(images, torch.arange(len(images)) % 40))
    overheard = attacked.release(table(smooth(64, "traffic")).get(torch.arange(64))[0], SeededNoise(Rng(7)))
    view = AttackerView(attacked, threat, auxiliary=foreign, rng=Rng(4), observed=lambda: overheard)
    assert view.task_labels is None
    assert not replace(threat, shift="corruptions").is_foreign
    Shadow(**{**SHORT, "epochs": 1}, shadow_epochs=1).fit(view, KEY)
