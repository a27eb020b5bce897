"""Folds of people: each picture counts once, nobody meets an attacker that knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from splitveil.attacks.attribute import Attribute
from splitveil.attacks.identify import Identify
from splitveil.attacks.pairs import PairsSubject, save_pairs
from splitveil.attacks.subjects import CallableSubject
from splitveil.attacks.view import attacker_view
from splitveil.audit import people as people_module
from splitveil.cli.audit import _search_people
from splitveil.contracts import Identifier, IdentityAttack, View
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, SpecError, ThreatModelError
from splitveil.experiments.attributes import infer_attribute
from splitveil.experiments.reidentification import reidentify
from splitveil.rng import Rng
from splitveil.threats import Grant, ThreatModel

PICTURE = (1, 8, 8)
KEY = Rng(0).child("reidentify")
seen: list[set[int]] = []


class Flat(Identifier):
    """The release itself."""

    def represent(self, r: Tensor) -> Tensor:
        return r.flatten(1)


@dataclass(frozen=True)
class Nearest(IdentityAttack):
    """The nearest neighbour; notes whom it learned from."""

    name: ClassVar[str] = "nearest"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs", "labels"})

    def _fit(self, view: View, rng: Rng) -> Flat:
        seen.append(set(attacker_view(view).labels.tolist()))
        return Flat()


def people(count: int, each: int = 4, faint: float = 0.0) -> Pictures:
    """Pictures of people that are alike but for some noise."""
    generator = Rng(1).generator()
    faces = torch.rand(count, 1, *PICTURE, generator=generator)
    x = (faces + faint * torch.randn(count, each, *PICTURE, generator=generator)).clamp(0, 1)
    images = (255 * x.flatten(0, 1)).round().to(torch.uint8)
    return Pictures(ImageTable(images, torch.arange(count).repeat_interleave(each)))


def pixels() -> CallableSubject:
    return CallableSubject(lambda x: x.flatten(1), PICTURE)


def blind() -> CallableSubject:
    return CallableSubject(lambda x: torch.ones(len(x), 3), PICTURE)


def test_each_picture_counts_once_and_nobody_is_known() -> None:
    seen.clear()
    result = reidentify(pixels(), people(11), Nearest(), rng=KEY, folds=3)
    assert result.correct.tolist() == [1.0] * 44
    assert sorted(result.galleries) == [3, 4, 4]
    assert result.chance == pytest.approx(3 / 11)  # a third of 3 people, a quarter of 4 and 4
    victims = [set(range(11)) - known for known in seen[::2]]
    assert seen[::2] == seen[1::2]  # the ceiling's attacker learns from the same people
    assert sorted(person for fold in victims for person in fold) == list(range(11))
    assert (result.summary.mean, result.summary.n, result.by_identity.n) == (1.0, 44, 11)


def test_a_blind_attacker_is_at_chance_exactly() -> None:
    result = reidentify(blind(), people(10), Nearest(), rng=KEY)
    assert result.summary.mean == pytest.approx(result.chance) == 0.5
    assert result.by_identity.mean == pytest.approx(0.5)
    assert result.ceiling_summary.mean == 1.0


def test_rank_one_equals_brute_force() -> None:
    """All others of a person are in the gallery, so that nothing is drawn by lot; then by hand in float64."""
    table = people(6, each=3, faint=0.6)
    result = reidentify(pixels(), table, Nearest(), rng=KEY, folds=2, gallery=2)
    x = table.get(torch.arange(18))[0].flatten(1).double()
    cosine = (x / x.norm(dim=1, keepdim=True)) @ (x / x.norm(dim=1, keepdim=True)).T
    for picture in range(18):
        fold = next(known for known in seen[-4::2] if picture // 3 not in known)
        others = [i for i in range(18) if i != picture and i // 3 not in fold]
        nearest = max(others, key=lambda i, row=picture: float(cosine[row, i]))  # type: ignore[misc]
        assert float(result.correct[picture]) == float(nearest // 3 == picture // 3)
    assert 0.1 < result.summary.mean < 1.0


def test_more_known_pictures_help() -> None:
    table = people(10, each=6, faint=0.5)
    one, five = (reidentify(pixels(), table, Nearest(), rng=KEY, folds=2, gallery=g).summary.mean for g in (1, 5))
    assert one < five


def test_it_repeats_under_its_key() -> None:
    table, attack = people(6, faint=0.3), Identify(embedding=4, width=2, epochs=2, lr=1e-2)
    first, second = (reidentify(pixels(), table, attack, rng=KEY, folds=2) for _ in range(2))
    assert torch.equal(first.correct, second.correct)
    assert torch.equal(first.ceiling, second.ceiling)


def test_stored_pairs_can_be_searched(tmp_path: Path) -> None:
    path, table = tmp_path / "pairs.safetensors", people(6)
    x, y = table.get(torch.arange(24))
    save_pairs(path, x, x.flatten(1), y)
    attacked = PairsSubject(path)
    result = reidentify(attacked, attacked.pictures, Nearest(), rng=KEY, folds=2)
    assert result.summary.mean == 1.0
    save_pairs(path, x, x.flatten(1))
    attacked = PairsSubject(path)
    attacked.pictures.labels = y
    with pytest.raises(ThreatModelError, match="attack 'nearest' needs labels"):
        reidentify(attacked, attacked.pictures, Nearest(), rng=KEY, folds=2)


def test_too_few_people_or_pictures() -> None:
    with pytest.raises(InputError, match="expected at least 10 people for 5 folds, got 9"):
        reidentify(pixels(), people(9), Nearest(), rng=KEY)
    with pytest.raises(InputError, match="expected at least 5 pictures of each person"):
        reidentify(pixels(), people(10), Nearest(), rng=KEY, gallery=4)
    for values in ({"folds": 1}, {"gallery": 0}):
        with pytest.raises(SpecError, match="expected folds >= 2 and gallery >= 1"):
            reidentify(pixels(), people(10), Nearest(), rng=KEY, **values)


# ------------------------------------------------------------------------------------------------ attributes


def test_an_attribute_stands_beside_chance_and_ceiling() -> None:
    x = torch.rand(200, *PICTURE, generator=Rng(3).generator())
    label = (torch.arange(200) % 3 == 0).long()
    x[label == 1] = x[label == 1] * 0.5 + 0.5
    images = (255 * x).round().to(torch.uint8)
    table = Pictures(ImageTable(images, label))
    known, test = table.take(torch.arange(120)), table.take(torch.arange(120, 200))
    attack = Attribute(kinds=("linear",), epochs=10, batch_size=32, lr=1e-2)
    result = infer_attribute(blind(), known, test, attack, rng=KEY)
    assert result.chance == float((test.labels == 0).double().mean())
    assert result.summary.mean == pytest.approx(result.chance)
    assert result.ceiling_summary.mean > 0.95
    assert result.correct.shape == result.ceiling.shape == (80,)
    assert result.facts["kind"] == "linear"
    shown = infer_attribute(pixels(), known, test, attack, rng=KEY, threat=ThreatModel(frozenset({"pairs", "labels"})))
    assert shown.summary.mean > 0.95


def test_who_searches_for_people_sees_what_the_command_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(people_module, "find_people", lambda record, **given: heard.append(given["threat"]))
    granted = ThreatModel(frozenset({"weights"}), observations=8, duplicates="near", query_budget=5000)
    _search_people([SimpleNamespace(name="run")], granted, 0, None, None)  # type: ignore[list-item]
    [threat] = heard
    assert (threat.observations, threat.duplicates, threat.query_budget) == (8, "near", 5000)
    assert threat.grants == {"query", "pairs", "labels"}
