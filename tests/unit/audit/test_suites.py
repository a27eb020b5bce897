"""What a suite tries, and what a threat model lets it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from splitveil.audit.suites import Entry, Suite, load_suite
from splitveil.contracts import FeatureSpec
from splitveil.defenses import (
    Defense,
    cem,
    conditional_entropy,
    ensembler,
    gaussian,
    noise_arl,
    noise_nopeek,
    topk,
)
from splitveil.defenses.base import AttackPart, MechanismPart
from splitveil.errors import SpecError, UnknownNameError
from splitveil.experiments.recipes import load_recipe
from splitveil.registry import ATTACKS, SUITES
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

WHITE_BOX = ThreatModel.preset("white_box")


@pytest.mark.parametrize("recipe", ["tiny", "quick", "full"])
def test_each_suite_holds_the_one_before_it_and_nothing_twice(recipe: str) -> None:
    seen: tuple[Entry, ...] = ()
    for name in ("quick", "standard", "strong"):
        suite = load_suite(name, load_recipe(recipe))
        assert suite.entries[: len(seen)] == seen
        assert len(suite.entries) > len(seen)
        described = [repr(entry) for entry in suite.entries]
        assert len(set(described)) == len(described)
        for entry in suite.entries:
            ATTACKS.load(entry.attack.name)(**entry.attack.params)
        seen = suite.entries
    assert {entry.name for entry in SUITES} == {"quick", "standard", "strong"}


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'strong'"):
        load_suite("strog", load_recipe("tiny"))


def test_the_attack_that_knows_the_defense_is_added_where_it_is_missing() -> None:
    recipe = load_recipe("tiny")
    ridge = Entry(PlugInSpec(name="ridge"))
    suite = Suite("test", "", (ridge,)).with_adaptive("decoder", recipe)
    assert suite.entries == (ridge, Entry(recipe.attack))
    assert suite.with_adaptive("decoder", recipe) == suite
    assert Suite("test", "", ()).with_adaptive("linear", recipe).entries == (Entry(PlugInSpec(name="linear")),)


@pytest.mark.parametrize("name", ["quick", "standard", "strong"])
@pytest.mark.parametrize("observations", [4, 16, 40])
@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_attackers_see_as_many_releases_as_are_granted(name: str, observations: int, duplicates: Any) -> None:
    recipe, threat = load_recipe("tiny"), replace(WHITE_BOX, observations=observations, duplicates=duplicates)
    suite = load_suite(name, recipe).granted(threat, recipe)
    several = [entry for entry in suite.entries if entry.observations > 1]
    assert {entry.observations for entry in several} == {observations}
    assert any(entry.duplicates == duplicates and entry.refused(threat) is None for entry in several)
    once = [entry for entry in suite.entries if entry.observations == 1]
    assert once == [entry for entry in load_suite(name, recipe).entries if entry.observations == 1]


def test_one_release_leaves_a_suite_as_it_is() -> None:
    recipe = load_recipe("tiny")
    suite = load_suite("standard", recipe)
    assert suite.granted(WHITE_BOX, recipe) == suite


def test_who_has_weights_and_no_pictures_searches() -> None:
    recipe, threat = load_recipe("tiny"), replace(WHITE_BOX, auxiliary="none")
    for name in ("quick", "standard"):
        suite = load_suite(name, recipe).granted(threat, recipe)
        [left] = [entry for entry in suite.entries if entry.refused(threat) is None]
        assert (left.attack.name, left.attack.params["prior"]) == ("optimise", "tv")


def test_what_is_too_wide_to_whiten_is_scaled() -> None:
    suite = load_suite("strong", load_recipe("quick"))
    assert suite.reading(FeatureSpec.of((4096, 2, 2))) == suite
    wide = suite.reading(FeatureSpec.of((5120,)))
    assert "whiten" in repr(suite)
    assert "whiten" not in repr(wide)
    assert len(wide.entries) == len(suite.entries)
    for entry in wide.entries:
        ATTACKS.load(entry.attack.name)(**entry.attack.params)


def test_effort_is_times_the_steps_of_searches() -> None:
    recipe = load_recipe("quick")
    once, twice = (load_suite("strong", recipe.with_effort(effort)) for effort in (1, 2))
    for one, two in zip(once.entries, twice.entries, strict=True):
        for name in ("steps", "shadow_epochs"):
            if name in two.attack.params:
                default = getattr(ATTACKS.load(one.attack.name), name)
                assert two.attack.params[name] == 2 * one.attack.params.get(name, default)
    assert [entry.attack.params.get("steps") for entry in twice.entries].count(400) == 1


@pytest.mark.parametrize(("bodies", "chosen", "largest"), [(4, 2, 2), (4, 3, 3), (10, 3, 1)])
def test_an_ensemble_is_attacked_through_every_set_of_its_size_where_they_are_few(
    bodies: int, chosen: int, largest: int
) -> None:
    defense, recipe = ensembler(bodies=bodies, chosen=chosen), load_recipe("tiny")
    [twin] = defense.adaptive
    [entry] = Suite("test", "", ()).with_adaptive(twin.name, recipe, twin.params).entries
    assert entry.attack.name == "shadow_bodies"
    assert entry.attack.params == {**recipe.attack.params, "largest": largest}
    assert (defense + conditional_entropy(0.1)).adaptive == (twin,)


@pytest.mark.parametrize(
    ("host", "other"),
    [
        (ensembler(noise_std=0.1), cem(noise_std=0.1)),
        (ensembler(noise_std=0.1), conditional_entropy(0.2, noise_std=0.1)),
        (ensembler(noise_std=0.1), noise_arl(noise_std=0.1)),
        (ensembler(noise_std=0.1), noise_nopeek(noise_std=0.1)),
        (topk(), Defense("ball", {}, (MechanismPart("clip_ball", {"radius": 1.0}),))),
    ],
    ids=lambda item: item.name,
)
def test_a_sum_keeps_the_attack_that_knows_one_of_its_parts(host: Defense, other: Defense) -> None:
    assert (host + other).adaptive == (other + host).adaptive == host.adaptive != other.adaptive


def test_a_sum_has_all_attacks_that_know_its_parts_each_once() -> None:
    sparse = replace(topk(), name="sparse", mechanisms=(), adaptive=(AttackPart("support"), AttackPart("shadow")))
    known = [part.name for part in (ensembler() + sparse).adaptive]
    assert known == ["shadow_bodies", "support", "shadow"]
    assert (topk() + sparse).adaptive == sparse.adaptive
    assert (gaussian() + conditional_entropy(0.2)).adaptive == (AttackPart("decoder"),)


def test_an_attack_by_its_name_alone_is_refused() -> None:
    with pytest.raises(SpecError, match=r"got 'support': pass a tuple, such as \(AttackPart\('support'\),\)"):
        Defense("mine", {}, adaptive="support")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "threat", "reason"),
    [
        (Entry(PlugInSpec(name="optimise")), ThreatModel.preset("black_box"), "needs weights"),
        (Entry(PlugInSpec(name="ridge")), ThreatModel.preset("query_free"), "needs pairs"),
        (Entry(PlugInSpec(name="ridge"), observations=4), WHITE_BOX, "needs 4 releases of one picture"),
        (
            Entry(PlugInSpec(name="ridge"), observations=4),
            ThreatModel(WHITE_BOX.grants, observations=4, duplicates="near"),
            "needs releases of the very same picture",
        ),
        (
            Entry(PlugInSpec(name="ridge")),
            ThreatModel(WHITE_BOX.grants, auxiliary="none"),
            "needs pictures of its own",
        ),
        (Entry(PlugInSpec(name="ridge")), WHITE_BOX, None),
        (
            Entry(PlugInSpec(name="ridge"), observations=4, duplicates="near"),
            ThreatModel(WHITE_BOX.grants, observations=4),
            None,
        ),
    ],
)
def test_what_is_not_granted_says_why(entry: Entry, threat: ThreatModel, reason: str | None) -> None:
    assert entry.refused(threat) == reason


def test_an_entry_uses_no_more_than_it_wants() -> None:
    granted = ThreatModel(WHITE_BOX.grants, observations=16)
    assert Entry(PlugInSpec(name="ridge")).threat(granted).observations == 1
    near = Entry(PlugInSpec(name="ridge"), observations=4, duplicates="near")
    assert (near.threat(granted).observations, near.threat(granted).duplicates) == (4, "near")
    assert near.label == "ridge on 4 near duplicates"
