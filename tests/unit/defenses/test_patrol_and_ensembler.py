"""PATROL's head and its pruning, Ensembler's bodies and stages, on models small enough to look into."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitveil.contracts import Stage, Weighted
from splitveil.defenses import Defense, ensembler, load_defense, patrol
from splitveil.defenses.ensembler import BeginNetwork, MultiplyBodies, SecretSelector
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.defenses.patrol import DeepenHead, DeeperEntry, PruneHead
from splitveil.errors import MissingExtraError, SpecError
from splitveil.experiments.building import build_protected
from splitveil.export.bundle import cautions
from splitveil.metrics.cost import count_parameters, multiply_adds
from splitveil.nets import pruning
from splitveil.nets.parts import SplitParts
from splitveil.nets.small import small
from splitveil.nets.vgg import vgg11
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from training_fixtures import SETTINGS, make_trainer


def parts() -> SplitParts:
    with Rng(0).scoped():
        return small(classes=2, input_shape=(1, 6, 6), width=0.5, bottleneck=4)


def protected(defense: Defense, seed: int = 0) -> tuple[SplitModel, tuple[Weighted, ...]]:
    return build_protected(parts(), defense, 2, Rng(seed))


def trained(defense: Defense, **changes: Any) -> SplitModel:
    model, penalties = protected(defense)
    make_trainer(model, penalties=penalties, stages=defense.stages(), **changes).run()
    return model


# ------------------------------------------------------------------------------------------ cost and pruning


def test_multiply_adds_are_those_of_the_formulas() -> None:
    head = vgg11(classes=10, width=0.25).head
    expected = 9 * (3 * 16 * 32 * 32 + 16 * 32 * 16 * 16 + 32 * 8 * 8 * 8)
    assert multiply_adds(head, (3, 32, 32)) == expected
    assert head.training
    assert count_parameters(nn.Linear(3, 2), nn.BatchNorm2d(4)) == 8 + 8


@pytest.mark.parametrize("cost", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_deeper_head_is_pruned_to_its_budget(cost: Any, share: float) -> None:
    with Rng(0).scoped():
        plain = SplitModel(vgg11(classes=10, width=0.25), Identity())
        before = {"parameters": count_parameters(plain.head), "multiply_adds": multiply_adds(plain.head, (3, 32, 32))}
        model = DeepenHead(16)(plain)
    spec = model.feature_spec
    (entry,) = [module for module in model.head.modules() if isinstance(module, DeeperEntry)]
    assert entry.plain == before
    PruneHead(share, cost)(model)
    after = {"parameters": count_parameters(model.head), "multiply_adds": multiply_adds(model.head, (3, 32, 32))}
    assert 0.8 * share * before[cost] < after[cost] <= share * before[cost]
    spec.check(model.head(torch.rand(2, 3, 32, 32)), "z")


def test_channels_that_have_faded_go_first() -> None:
    with Rng(0).scoped():
        model = DeepenHead(8)(SplitModel(parts(), Identity()))
    norm = next(module for module in model.head.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.01, 1.1, 0.02, 1.2, 0.03, 1.3, 1.4]))
    PruneHead(0.9, "parameters")(model)
    assert {0.01, 0.02, 0.03}.isdisjoint({round(value, 2) for value in norm.weight.tolist()})


def test_a_budget_that_no_pruning_reaches_is_an_error() -> None:
    with Rng(0).scoped():
        model = DeepenHead(8)(SplitModel(parts(), Identity()))
    with pytest.raises(SpecError, match="allow a larger edge_budget"):
        PruneHead(0.001, "parameters")(model)


def test_without_torch_pruning_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "find_spec", lambda name: None)
    with Rng(0).scoped():
        model = DeepenHead(8)(SplitModel(parts(), Identity()))
    with pytest.raises(MissingExtraError, match=r"splitveil\[prune\]"):
        PruneHead(0.5, "parameters")(model)


def test_pruned_tensors_still_train() -> None:
    """The released code prunes under an optimiser that goes on holding the tensors of before."""
    defense = patrol(deeper=4, edge_budget=0.7, cost="parameters")
    seen: dict[str, dict[str, Tensor]] = {}
    model, penalties = protected(defense)
    first, second = defense.stages()

    def prune(whole: nn.Module) -> None:
        assert second.before is not None
        second.before(whole)
        seen["pruned"] = {name: value.detach().clone() for name, value in model.head.named_parameters()}

    stages = (first, Stage(second.name, second.share, before=prune, lr_scale=second.lr_scale))
    make_trainer(model, penalties=penalties, stages=stages).run()
    after = dict(model.head.named_parameters())
    assert after.keys() == seen["pruned"].keys()
    still = [name for name, value in after.items() if torch.equal(value, seen["pruned"][name])]
    assert still == []


def test_a_head_without_convolutions_cannot_be_made_deeper() -> None:
    model = SplitModel(SplitParts(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), nn.Linear(3, 2), (1, 2, 2)), Identity())
    with pytest.raises(SpecError, match="with a convolution to make it deeper"):
        DeepenHead(4)(model)


# ------------------------------------------------------------------------------------------ ensembler


@pytest.mark.parametrize("selection", ["fixed", "per_request"])
def test_each_network_trains_its_own_body_and_the_last_stage_none(selection: Any) -> None:
    defense = ensembler(bodies=3, chosen=2, selection=selection, network_share=0.5)
    model, penalties = protected(defense)
    snapshots: list[list[dict[str, Tensor]]] = []

    def take() -> None:
        bodies = [{name: value.clone() for name, value in body.state_dict().items()} for body in model.tail.bodies]
        snapshots.append(bodies)

    def watched(stage: Stage) -> Stage:
        before = stage.before
        assert before is not None

        def look(whole: nn.Module) -> None:
            take()
            before(whole)

        return Stage(stage.name, stage.share, stage.parts, look)

    make_trainer(model, penalties=penalties, stages=[watched(stage) for stage in defense.stages()]).run()
    take()
    for number in range(4):
        changed = [
            any(not torch.equal(value, after[name]) for name, value in before.items())
            for before, after in zip(snapshots[number], snapshots[number + 1], strict=True)
        ]
        assert changed == [place == number for place in range(3)]
    (similarity,) = [item.penalty for item in penalties if item.name == "head_similarity"]
    assert similarity.filled.all()
    assert not any("heads" in name for name in model.state_dict())
    assert model.tail.active == model.finish.active == -1


class Placed(nn.Module):
    """A parameter that no standard layer resets, as a transformer's position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos


def test_no_stage_begins_with_what_another_has_learned() -> None:
    plain = parts()
    body = nn.Sequential(Placed(), nn.Flatten(), nn.LazyLinear(2), nn.Linear(2, 2))
    head = nn.Sequential(Placed(), nn.Conv2d(1, 2, 1))
    body(head(torch.zeros(2, *plain.input_shape)))  # the lazy layer finds its size
    with Rng(0).scoped():
        model = MultiplyBodies(3, 2, "fixed")(SplitModel(SplitParts(head, body, plain.input_shape), Identity()))
    places = [body[0].pos for body in model.tail.bodies]
    assert not any(torch.equal(first, second) for first, second in pairwise(places)), "bodies begin alike"
    for stage in ensembler(bodies=3, chosen=2).stages():
        with torch.no_grad():
            model.head[0].pos.fill_(1.23)
        assert stage.before is not None
        stage.before(model)
        assert float(model.head[0].pos.detach().abs().max()) < 0.2, stage.name


def test_heads_of_the_first_stage_differ_from_the_one_that_ships() -> None:
    defense = ensembler(bodies=2, chosen=1, weight=5.0)
    model, penalties = protected(defense)
    make_trainer(model, penalties=penalties, stages=defense.stages(), settings=SETTINGS).run()
    (similarity,) = [item.penalty for item in penalties if item.name == "head_similarity"]
    own = model.head.state_dict()
    for head in similarity.heads:
        assert any(not torch.equal(value, own[name]) for name, value in head.state_dict().items())


def test_bodies_that_are_not_chosen_do_not_count() -> None:
    model = trained(ensembler(bodies=4, chosen=2))
    reply = torch.rand(5, 4, model.finish.readers[0].in_features // 2, generator=Rng(0).generator())
    logits = model.finish(reply)
    for place in range(4):
        changed = reply.clone()
        changed[:, place] += 1.0
        assert torch.equal(model.finish(changed), logits) == (place not in model.finish.chosen.tolist())


def test_a_choice_per_request_depends_on_the_picture_and_on_the_key() -> None:
    with Rng(0).scoped():
        selector = SecretSelector(6, [0, 1, 2], 3, 2, "per_request").eval()
    reply = torch.randn(40, 6, 3, generator=Rng(1).generator())
    logits = selector(reply)
    assert torch.equal(logits, selector(reply))
    torch.testing.assert_close(logits[:1], selector(reply[:1]))
    with Rng(9).scoped():
        selector.key = torch.randn_like(selector.key)
    assert not torch.equal(logits, selector(reply))


def test_what_answers_have_in_common_does_not_choose() -> None:
    """Behind a ReLU all answers have a mean that is large beside what tells pictures apart."""
    with Rng(0).scoped():
        selector = SecretSelector(6, [0, 1], 16, 2, "per_request").train()
    generator = Rng(1).generator()
    common = 3 * torch.rand(6, 16, generator=generator)

    def answers(n: int) -> torch.Tensor:
        return (common + 0.1 * torch.randn(n, 6, 16, generator=generator)).relu()

    for _ in range(60):
        selector(answers(64))
    selector(answers(1))
    reply, reads = answers(600), list[torch.Tensor]()
    selector.eval().readers.requires_grad_(False)
    for place in range(6):  # a body counts where its reader changes the logits
        before = selector(reply)
        selector.readers[place].bias += 1.0
        reads.append((selector(reply) != before).any(1))
        selector.readers[place].bias -= 1.0
    sets = {tuple(row) for row in torch.stack(reads, 1).tolist()}
    assert all(sum(row) == 2 for row in sets)
    assert len(sets) == 15, "every pair of six bodies"
    shares = torch.stack(reads, 1).double().mean(0)
    assert float(shares.min()) > 0.15


def test_fresh_heads_are_drawn_from_the_seed_wherever_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[torch.device]()
    scoped = Rng.scoped

    def listen(self: Rng, device: torch.device | str = "cpu") -> Any:
        asked.append(torch.device(device))
        return scoped(self)

    model, _ = protected(ensembler(bodies=4, chosen=2))
    monkeypatch.setattr(sys.modules[BeginNetwork.__module__], "device_of", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(Rng, "scoped", listen)
    BeginNetwork(1)(model)
    assert asked[0] == torch.device("cuda:0")


def test_the_secret_differs_by_seed_and_is_no_part_of_the_cloud() -> None:
    chosen = {tuple(protected(ensembler(bodies=6, chosen=3), seed)[0].finish.chosen.tolist()) for seed in range(8)}
    assert len(chosen) > 3
    model, _ = protected(ensembler(bodies=6, chosen=3))
    assert not any("chosen" in name or "key" in name for name in model.tail.state_dict())


def test_an_export_says_where_the_secret_can_be_guessed() -> None:
    with Rng(0).scoped():
        plain = SplitModel(small(classes=3, input_shape=(1, 8, 8)), Identity())
        hidden = MultiplyBodies(4, 2, "fixed")(plain)
    assert cautions(plain, 0) == cautions(hidden, 2**60) == ()
    [said] = cautions(hidden, 7)
    assert "7 can be guessed" in said
    assert int(said.split("--seed ")[1].split(",")[0]) < 2**62


def test_a_run_goes_on_in_the_middle_of_its_stages(tmp_path: Path) -> None:
    model, _ = protected(ensembler(bodies=3, chosen=2))
    ensembler(bodies=3, chosen=2).stages()[1].before(model)  # type: ignore[misc]
    again, _ = protected(ensembler(bodies=3, chosen=2), seed=1)
    again.load_state_dict(model.state_dict())
    assert (again.tail.active, again.finish.active) == (1, 1)
    x = torch.rand(2, 1, 6, 6)
    r = model.release(x, noise=SeededNoise(Rng(0)))
    torch.testing.assert_close(again.predict(r), model.predict(r))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ensembler(bodies=3, chosen=3), "1 <= chosen < bodies"),
        (lambda: ensembler(bodies=-1), "1 <= chosen < bodies, got chosen=2 and bodies=-1: pass"),
        (lambda: load_defense("ensembler", {"bodies": -1}), "1 <= chosen < bodies, got chosen=2 and bodies=-1: pass"),
        (lambda: ensembler(bodies=1.5), "whole numbers 1 <= chosen < bodies, got chosen=2 and bodies=1.5"),
        (lambda: ensembler(chosen=0.5), "whole numbers 1 <= chosen < bodies"),
        (lambda: ensembler(selection="random"), "unknown selection 'random'"),
        (lambda: ensembler(network_share=0.0), "network_share"),
        (lambda: patrol(cost="joules"), "unknown edge cost 'joules'"),
        (lambda: patrol(deeper=0), "channels >= 1"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


def test_a_tail_without_a_linear_end_is_refused() -> None:
    model = SplitModel(SplitParts(nn.Conv2d(1, 2, 3), nn.Flatten(), (1, 6, 6)), Identity())
    with pytest.raises(SpecError, match="ends in a linear layer"):
        MultiplyBodies(3, 2, "fixed")(model)
