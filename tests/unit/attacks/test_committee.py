"""Several decoders, and the mean of their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attack_fixtures import (
    BLACK_BOX,
    KEY,
    PAIRS_ONLY,
    WHITE_BOX,
    Counting,
    auxiliary,
    budgeted,
    smooth,
    subject,
    table,
    view_of,
)
from splitveil.attacks.committee import Committee, CommitteeInverter
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.optimise import Optimise
from splitveil.attacks.storage import save_inverter
from splitveil.contracts import Inverter
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError, ThreatModelError, UnknownNameError
from splitveil.experiments.target import Target
from splitveil.noise import SeededNoise

FIRST: dict[str, Any] = {"channels": 4, "blocks": 1, "epochs": 4, "batch_size": 16}
SECOND: dict[str, Any] = {**FIRST, "architecture": "unet", "standardise": "whiten"}
PAIR = Committee(members=(FIRST, SECOND))


def make_target(attacked: Any) -> Target:
    return Target(attacked, test=table(smooth(16, "test")), auxiliary=lambda threat: auxiliary(), seed=0)


def test_its_error_is_the_members_mean_error_less_their_disagreement() -> None:
    attacked = subject(Gaussian(0.1))
    found = PAIR.fit(view_of(attacked), KEY)
    assert isinstance(found, CommitteeInverter)
    x = table(smooth(64, "test")).get(torch.arange(64))[0]
    r = attacked.release(x, SeededNoise(KEY))
    with torch.no_grad():
        drawn = [member.reconstruct(r) for member in found._inverters()]
        together = found.reconstruct(r)
    mean_error = sum(float((item - x).square().mean()) for item in drawn) / 2
    disagreement = sum(float((item - together).square().mean()) for item in drawn) / 2
    assert disagreement > 0
    assert float((together - x).square().mean()) == pytest.approx(mean_error - disagreement, rel=1e-4)


def test_what_the_suite_has_learned_it_does_not_learn_again() -> None:
    counting = Counting(subject())
    target = make_target(counting)
    first, cost = target.fit(Decoder(**FIRST), WHITE_BOX)
    asked = counting.count
    assert cost == asked > 0
    again, nothing = target.fit(Decoder(**FIRST), WHITE_BOX)
    assert again is first
    assert nothing == 0
    committee, queries = target.fit(PAIR, WHITE_BOX)
    assert isinstance(committee, CommitteeInverter)
    assert committee.members[0] is first
    assert queries == counting.count - asked > 0, "the second member was new"
    assert target.fit(PAIR, WHITE_BOX)[1] == 0


def test_what_an_earlier_process_has_learned_is_read(tmp_path: Path) -> None:
    first, _ = make_target(subject()).fit(Decoder(**FIRST), WHITE_BOX)
    save_inverter(tmp_path / "first.safetensors", first, {})
    counting = Counting(subject())
    target = make_target(counting)
    target.stored(Decoder(**FIRST), WHITE_BOX, tmp_path / "first.safetensors")
    again, queries = target.fit(Decoder(**FIRST), WHITE_BOX)
    assert (queries, counting.count) == (0, 0)
    r = subject().release(table(smooth(4, "test")).get(torch.arange(4))[0], SeededNoise(KEY))
    torch.testing.assert_close(again.invert(r), first.invert(r))


def test_a_warm_start_takes_the_decoder_that_is_there() -> None:
    counting = Counting(subject())
    target = make_target(subject())
    target.subject = counting.inner
    lent: list[Inverter] = [target.fit(Decoder(**FIRST), WHITE_BOX)[0]]
    target.fit(Optimise(prior="tv", steps=2, warm_start="decoder", decoder=FIRST), WHITE_BOX)
    assert target.fit(Decoder(**FIRST), WHITE_BOX)[0] is lent[0]


def test_under_a_query_budget_it_pays_for_all_its_members() -> None:
    """43 pictures of 4 epochs, 43 for the statistics, 5 to validate on: for each member."""
    one = 4 * 43 + 43 + 5
    view = view_of(subject(), budgeted(2 * one))
    PAIR.fit(view, KEY)
    assert view.queries == 2 * one
    scarce = view_of(subject(), budgeted(50))
    Committee(members=(FIRST, SECOND)).fit(scarce, KEY)
    assert scarce.queries <= 50, "each has half of what there is, and neither all of it"
    assert scarce.threat.query_budget == 50
    with pytest.raises(ThreatModelError, match="budget"):
        Committee(members=(FIRST, SECOND)).fit(view_of(subject(), budgeted(14)), KEY)


def test_what_its_members_took_it_took() -> None:
    assert PAIR.fit(view_of(subject(), BLACK_BOX), KEY).facts["fresh_noise"]
    assert not PAIR.fit(view_of(subject(), PAIRS_ONLY), KEY).facts["fresh_noise"]


def test_members_that_cannot_be_meant_are_refused() -> None:
    for members in ((), (FIRST,), (FIRST, FIRST)):
        with pytest.raises(SpecError, match="at least two members, no two alike"):
            Committee(members=members)
    with pytest.raises(UnknownNameError, match="'epoch'"):
        Committee(members=(FIRST, {"epoch": 3}))
