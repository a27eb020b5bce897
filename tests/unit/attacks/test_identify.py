"""Identification and attributes: won where the release shows them, lost where it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_fixtures import BLACK_BOX, KEY, PAIRS_ONLY, PICTURE, Counting, budgeted, view_of
from splitveil.attacks.attribute import Attribute
from splitveil.attacks.identify import Identify
from splitveil.attacks.subjects import CallableSubject
from splitveil.contracts import AttributeAttack, FeatureSpec, IdentityAttack
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, SpecError, TrainingError, UnknownNameError
from splitveil.experiments.attacking import fit_and_score
from splitveil.metrics.identification import rank_accuracy
from splitveil.metrics.labels import accuracy
from splitveil.nets.embedding import EmbeddingNet
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

TINY = Identify(embedding=8, width=4, epochs=15, batch_size=32, lr=1e-2)
PROBE = Attribute(width=4, epochs=15, batch_size=32, lr=1e-2)
HELD = ThreatModel(frozenset({"pairs", "labels"}))


def people(first: int, last: int, each: int = 6) -> Pictures:
    """Pictures whose left half shows faintly who it is, and whose right half loudly shows something else."""
    rows = []
    for person in range(first, last):
        generator = Rng(11).child("person", person).generator()
        face = 0.4 + 0.2 * torch.rand(1, 1, 8, 4, generator=generator)
        rows.append(torch.cat([face.expand(each, 1, 8, 4), torch.rand(each, 1, 8, 4, generator=generator)], dim=3))
    images = (255 * torch.cat(rows)).round().to(torch.uint8)
    return Pictures(ImageTable(images, torch.arange(first, last).repeat_interleave(each)))


def pixels() -> CallableSubject:
    return CallableSubject(lambda x: x.flatten(1), PICTURE)


def found(identifier: Any, attacked: CallableSubject, strangers: Pictures) -> float:
    """Rank-1 accuracy of each person's second picture against the first of all."""
    x, _ = strangers.get(torch.arange(len(strangers)))
    r = attacked.release(x, None).reshape(-1, 6, *attacked.release_spec.shape)  # type: ignore[arg-type]
    scores = identifier.scores(r[:, 1], r[:, 0])
    return float(rank_accuracy(scores, torch.arange(len(r))).mean())


# ------------------------------------------------------------------------------------------------ identities


def test_it_finds_strangers_where_distances_alone_do_not() -> None:
    strangers = people(100, 130)
    attacked = pixels()
    learned = TINY.fit(view_of(attacked, pictures=people(0, 30)), KEY)
    lazy = Identify(embedding=8, width=4, epochs=1, lr=1e-12).fit(view_of(attacked, pictures=people(0, 30)), KEY)
    assert found(learned, attacked, strangers) > 0.5
    assert found(lazy, attacked, strangers) < 0.3
    assert learned.facts["identities"] == 27
    assert learned.facts["val_identities"] == 3


def test_whitened_it_reads_what_a_loud_channel_drowns() -> None:
    """Two channels that are nearly alike: their difference is the face, and a hundredth of their power."""
    mixed = CallableSubject(lambda x: torch.cat([x[..., 4:] + 0.3 * x[..., :4], x[..., 4:]], dim=1), PICTURE)
    view, strangers = view_of(mixed, pictures=people(0, 30)), people(100, 130)
    assert found(TINY.fit(view, KEY), mixed, strangers) < 0.3
    assert found(replace(TINY, standardise="whiten").fit(view, KEY), mixed, strangers) > 0.6
    pairs = people(0, 30)
    view = view_of(mixed, pictures=Pictures(ImageTable(pairs.images, pairs.labels % 2)))
    assert PROBE.fit(view, KEY).facts["val_accuracy"] < 0.7
    assert replace(PROBE, standardise="whiten").fit(view, KEY).facts["val_accuracy"] > 0.8


@pytest.mark.parametrize("kind", [Identify, Attribute])
def test_another_standardisation_is_refused(kind: Any) -> None:
    with pytest.raises(UnknownNameError, match="'whitened'"):
        kind(standardise="whitened")


def test_it_is_at_chance_where_the_release_says_nothing() -> None:
    blind = CallableSubject(lambda x: torch.ones(len(x), 5), PICTURE)
    identifier = TINY.fit(view_of(blind, pictures=people(0, 8)), KEY)
    assert found(identifier, blind, people(100, 110)) == pytest.approx(0.1)


def test_embeddings_have_length_one_and_rows_stay_apart() -> None:
    attacked = CallableSubject(lambda x: x, PICTURE)  # a map
    identifier = TINY.fit(view_of(attacked, pictures=people(0, 8)), KEY)
    x = people(50, 52).get(torch.arange(12))[0].requires_grad_()
    e = identifier.embed(x)
    assert e.shape == (12, 8)
    assert not e.requires_grad
    torch.testing.assert_close(e.norm(dim=1), torch.ones(12))
    torch.testing.assert_close(identifier.embed(x[:1]), e[:1], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(identifier.scores(x[:3], x), e[:3] @ e.T)


def test_few_identities_are_all_learned_from() -> None:
    identifier = TINY.fit(view_of(pixels(), pictures=people(0, 3)), KEY)
    assert (identifier.facts["identities"], identifier.facts["val_identities"]) == (3, 0)
    assert identifier.facts["best_epoch"] == 14


def test_numbers_of_identities_do_not_matter() -> None:
    near, far = people(0, 8), people(0, 8)
    far.labels = 10**12 + 7 * far.labels
    first, second = (TINY.fit(view_of(pixels(), pictures=table), KEY) for table in (near, far))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize(("persons", "each"), [(1, 20), (12, 1)])
def test_who_cannot_be_told_apart_is_an_error(persons: int, each: int) -> None:
    with pytest.raises(InputError, match="expected pictures of at least two identities and two of one"):
        TINY.fit(view_of(pixels(), pictures=people(0, persons, each)), KEY)


# ------------------------------------------------------------------------------------------------ attributes


def shades(n: int, key: int, head: nn.Module | None = None) -> Pictures:
    """Pictures whose label is whether the mean of the top half is above that of the bottom half, of uneven classes."""
    x = torch.rand(n, *PICTURE, generator=Rng(key).generator())
    label = (torch.arange(n) % 4 == 0).long()
    x[label == 1, :, :4] += 0.3
    x[label == 0, :, 4:] += 0.3
    return Pictures(ImageTable((255 * x / 1.3).round().to(torch.uint8), label))


def right(probe: Any, attacked: CallableSubject, test: Pictures) -> Tensor:
    x, y = test.get(torch.arange(len(test)))
    return accuracy(probe.predict(attacked.release(x, None)), y)  # type: ignore[arg-type]


def test_a_probe_reads_what_is_there() -> None:
    attacked = pixels()
    probe = PROBE.fit(view_of(attacked, pictures=shades(160, 0)), KEY)
    assert float(right(probe, attacked, shades(100, 1)).mean()) > 0.95
    assert probe.facts["majority"] == 0
    assert probe.facts["val_accuracy"] > 0.9
    assert set(probe.facts["history"][0]["val_loss"]) == {"linear", "network"}


def test_a_probe_of_nothing_names_the_majority() -> None:
    blind = CallableSubject(lambda x: torch.ones(len(x), 5), PICTURE)
    probe = PROBE.fit(view_of(blind, pictures=shades(80, 0)), KEY)
    assert float(right(probe, blind, shades(100, 1)).mean()) == pytest.approx(0.75)


def test_the_network_is_chosen_where_the_line_fails() -> None:
    """The label is the parity of two bits, of which no linear function knows anything."""
    bits = torch.randint(0, 2, (240, 2), generator=Rng(0).generator())
    images = (bits * 255).to(torch.uint8)[:, None, :, None].repeat(1, 1, 4, 8)
    table = Pictures(ImageTable(images, bits.sum(1) % 2))
    attacked = CallableSubject(lambda x: x.flatten(1)[:, [0, 8]], PICTURE)
    probe = PROBE.fit(view_of(attacked, pictures=table), KEY)
    assert probe.facts["kind"] == "network"
    assert probe.facts["val_accuracy"] == 1.0
    line = Attribute(kinds=("linear",), epochs=15, lr=1e-2).fit(view_of(attacked, pictures=table), KEY)
    assert line.facts["val_accuracy"] < 0.8


# ------------------------------------------------------------------------------------------------ queries and settings


@pytest.mark.parametrize("attack", [TINY, PROBE], ids=["identify", "attribute"])
def test_fresh_noise_where_the_budget_pays_for_it(attack: Any) -> None:
    """40 pictures: releases of all but the held-out ones in each epoch and for the statistics, else one of each."""
    pictures = people(0, 10, 4)
    free = Counting(pixels())
    attack.fit(view_of(free, BLACK_BOX, pictures), KEY)
    for budget, fresh, asked in ((free.count, True, free.count), (free.count - 1, False, 40)):
        counting = Counting(pixels())
        fitted = attack.fit(view_of(counting, budgeted(budget), pictures), KEY)
        assert (fitted.facts["fresh_noise"], counting.count, fitted.facts["queries"]) == (fresh, asked, asked)
    stored = attack.fit(view_of(pixels(), HELD, pictures), KEY)
    assert stored.facts["fresh_noise"] is False
    few = attack.fit(view_of(pixels(), budgeted(20), pictures), KEY)
    assert few.facts["pictures"] == 20


@pytest.mark.parametrize("attack", [TINY, PROBE], ids=["identify", "attribute"])
def test_too_few_pictures_and_divergence(attack: Any) -> None:
    with pytest.raises(InputError, match="expected at least 8 auxiliary pictures, got 6"):
        attack.fit(view_of(pixels(), pictures=people(0, 1)), KEY)
    wild = type(attack)(epochs=3, lr=1e30, width=4)
    with pytest.raises(TrainingError, match="the attack diverged in epoch"):
        wild.fit(view_of(pixels(), pictures=people(0, 10)), KEY)
    assert not PAIRS_ONLY.allows("labels")


def test_a_label_below_zero_is_refused() -> None:
    table = people(0, 3)
    table.labels = table.labels - 1
    with pytest.raises(InputError, match="expected auxiliary pictures with labels of 0 and above"):
        PROBE.fit(view_of(pixels(), pictures=table), KEY)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 3},
        {"lr": 0.0},
        {"lr": math.nan},
        {"weight_decay": -1.0},
        {"val_share": 1.0},
        {"width": 0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    for kind in (Identify, Attribute):
        with pytest.raises(SpecError, match=r"expected .*got "):
            kind(**values)


def test_further_values_out_of_range_are_refused() -> None:
    for values in ({"embedding": 0}, {"scale": 0.0}, {"margin": 1.0}, {"margin": -0.1}):
        with pytest.raises(SpecError, match=r"expected .*got "):
            Identify(**values)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="expected kinds"):
        Attribute(kinds=())
    with pytest.raises(UnknownNameError, match="unknown kind of probe 'linera': did you mean 'linear'"):
        Attribute(kinds=("linera",))  # type: ignore[arg-type]
    assert Attribute(kinds=["linear"]).kinds == ("linear",)  # type: ignore[arg-type]


def test_the_bases() -> None:
    assert isinstance(TINY, IdentityAttack)
    assert isinstance(PROBE, AttributeAttack)


# ------------------------------------------------------------------------------------------------ the network


@pytest.mark.parametrize(
    "spec",
    [
        FeatureSpec.of((3, 11, 6)),
        FeatureSpec.of((17, 5), prefix_tokens=1),
        FeatureSpec.of((16, 5)),
        FeatureSpec.of((7, 5)),
        FeatureSpec.of((9,)),
        FeatureSpec((6, 4, 3), "map", 2, (6, 4)),
    ],
    ids=lambda spec: f"{spec.kind}{spec.shape}",
)
def test_every_value_of_every_kind_of_release_is_read(spec: FeatureSpec) -> None:
    with Rng(0).scoped():
        net = EmbeddingNet(spec, outputs=3, width=4)
    r = torch.randn(6, *spec.shape, generator=Rng(1).generator()).requires_grad_()
    out = net(r)
    assert out.shape == (6, 3)
    (gradient,) = torch.autograd.grad((out * torch.randn(out.shape, generator=Rng(2).generator())).sum(), r)
    assert bool((gradient.abs().amax(0) > 0).all())


def test_sizes_below_one_are_refused() -> None:
    for sizes in ({"outputs": 0}, {"outputs": 2, "width": 0}):
        with pytest.raises(SpecError, match="expected outputs and width >= 1"):
            EmbeddingNet(FeatureSpec.of((4,)), **sizes)


def test_an_attack_that_draws_no_picture_is_not_run_as_one() -> None:
    with pytest.raises(SpecError, match="expected an attack that rebuilds pictures, got 'identify'"):
        fit_and_score(None, PlugInSpec(name="identify"), threat=HELD)  # type: ignore[arg-type]
