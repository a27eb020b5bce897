"""Ways to fake an audit: each is caught by a named control, or cannot be written."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from attack_fixtures import PICTURE, auxiliary, invertible_head, smooth, subject, table
from splitveil import registry
from splitveil.attacks.controls import ridge_weights
from splitveil.attacks.inverters import LinearInverter
from splitveil.attacks.subjects import CallableSubject
from splitveil.attacks.view import attacker_view
from splitveil.audit.record import AuditRecord
from splitveil.audit.run import audit_target
from splitveil.audit.suites import Entry, Suite
from splitveil.contracts import Attack, Inverter, Subject, View
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import ThreatModelError
from splitveil.experiments.target import Target
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.threats import Grant, ThreatModel

STRONG: dict[str, Any] = {"channels": 8, "blocks": 1, "epochs": 20, "batch_size": 32, "lr": 5e-3}


def target_of(attacked: Subject) -> Target:
    return Target(attacked, test=table(smooth(128, "test")), auxiliary=lambda _: auxiliary(256), seed=0)


def audited(attacked: Subject, *entries: Entry, threat: ThreatModel | None = None) -> AuditRecord:
    granted = threat or ThreatModel(attacked.offers)
    plan = Suite("test", "seconds", entries)
    return audit_target(target_of(attacked), plan, granted, subject="test", adaptive=("decoder",))[0]


def decoder(**changed: Any) -> Entry:
    return Entry(PlugInSpec(name="decoder", params={**STRONG, **changed}))


def failed(found: AuditRecord) -> set[str]:
    return {control.name for control in found.controls if control.state == "fail"}


@pytest.fixture(scope="module")
def honest() -> AuditRecord:
    """An audit of noise with a decoder that has learned."""
    return audited(subject(Gaussian(0.3)), decoder())


def test_an_honest_audit_fails_nothing_but_the_want_of_strength(honest: AuditRecord) -> None:
    """Seconds of training do not beat ridge on pictures that are linear in nine numbers; the digits show the rest."""
    assert failed(honest) <= {"converged", "attack_works", "budget_suffices"}
    states = {control.name: control.state for control in honest.controls}
    assert states["no_worse_than_controls"] == states["not_above_reference"] == "pass"
    assert states["less_with_noise"] == states["same_on_other_draws"] == "pass"
    assert states["undefended_is_worst"] == "not applicable"
    assert honest.pictures == 128
    assert honest.worst["mse"].result.mean == min(item.metrics["mse"].mean for item in honest.attacks)


def test_an_attack_without_training_is_caught() -> None:
    found = audited(subject(), decoder(epochs=1, lr=1e-5))
    assert "attack_works" in failed(found)
    assert found.status == "invalid"


class Wave(nn.Module):
    """Features that ridge regression cannot read well."""

    def forward(self, z: Tensor) -> Tensor:
        return 0.5 + 0.5 * torch.sin(20.0 * z)


def digits(first: int, last: int) -> Pictures:
    found = load_digits()
    images = torch.from_numpy(found.images[first:last] * 255 / 16).round().to(torch.uint8)[:, None]
    return Pictures(ImageTable(images, torch.from_numpy(found.target[first:last]).long()))


def test_an_attack_on_a_tenth_of_its_budget_is_caught_though_it_beats_all_controls() -> None:
    """Its error stands still at the end, as the rate falls to zero whatever the budget."""
    attacked = subject(head=invertible_head(Wave()))
    target = Target(attacked, test=digits(0, 128), auxiliary=lambda _: digits(128, 640), seed=0)
    plan = Suite("test", "seconds", (decoder(epochs=10, channels=16),))
    found, _ = audit_target(target, plan, ThreatModel(attacked.offers), subject="test", adaptive=("decoder",))
    [attack] = found.attacks
    assert attack.beats_controls
    assert attack.converged
    assert "budget_suffices" in failed(found)
    assert found.status == "invalid"


@dataclass(frozen=True)
class Forgetful(Attack):
    """Learns from noise-free releases, as if there were no mechanism."""

    name: ClassVar[str] = "forgetful"
    needs: ClassVar[frozenset[Grant]] = frozenset({"weights"})

    def _fit(self, view: View, rng: Rng) -> Inverter:
        held = attacker_view(view)
        x = held.auxiliary.get(torch.arange(len(held.auxiliary)))
        silence = tuple(torch.zeros(len(x), *spec.shape) for spec in held.noise_specs)
        with torch.no_grad():
            r = held.simulate(x, silence)
        inverter = LinearInverter(held.release_spec, held.input_shape)
        inverter.standardise.fit([r])
        rows = inverter.standardise(r).flatten(1).double()
        [(weight, bias)] = ridge_weights(rows, x.flatten(1).double(), [1e-6])
        inverter.weight.copy_(weight)
        inverter.bias.copy_(bias)
        inverter.eval()
        return inverter


@pytest.fixture
def forgetful() -> Iterator[Entry]:
    registry.ATTACKS.add("forgetful", "test_sabotage:Forgetful", "a sabotage")
    yield Entry(PlugInSpec(name="forgetful"))
    del registry.ATTACKS._entries["forgetful"]


def test_an_attack_that_forgets_the_mechanism_is_caught(forgetful: Entry) -> None:
    found = audited(subject(Gaussian(0.5)), forgetful)
    assert "no_worse_than_controls" in failed(found)
    assert found.status == "invalid"


@dataclass(frozen=True)
class Peeking(Attack):
    """Knows by heart the very releases that it is scored on, and nothing else."""

    name: ClassVar[str] = "peeking"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs"})
    releases: ClassVar[Tensor]
    pictures: ClassVar[Tensor]

    def _fit(self, view: View, rng: Rng) -> Inverter:
        return Recall()


class Recall(Inverter):
    facts: dict[str, Any] = {}  # noqa: RUF012

    def reconstruct(self, r: Tensor) -> Tensor:
        near = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(r.flatten(1), Peeking.releases.flatten(1), compute_mode=near)
        known = (distance.amin(1) < 1e-3).reshape(-1, 1, 1, 1)
        return torch.where(known, Peeking.pictures[distance.argmin(1)], Peeking.pictures.mean(0))


def test_an_attack_that_knows_the_noise_it_is_scored_on_is_caught() -> None:
    registry.ATTACKS.add("peeking", "test_sabotage:Peeking", "a sabotage")
    target, threat = target_of(subject(Gaussian(0.3))), ThreatModel(subject().offers)
    Peeking.releases, Peeking.pictures = target.releases(threat), target.test.get(torch.arange(128))[0]
    plan = Suite("test", "seconds", (Entry(PlugInSpec(name="peeking")),))
    found, _ = audit_target(target, plan, threat, subject="test", adaptive=("peeking",))
    del registry.ATTACKS._entries["peeking"]
    assert found.worst["mse"].result.mean < 1e-6
    assert "same_on_other_draws" in failed(found)


def test_an_audit_cannot_select_on_the_test_pictures() -> None:
    """Nothing that an attack is handed leads to them: neither the table nor a tensor of it."""
    target = target_of(subject())
    target.releases(ThreatModel.preset("white_box"))  # they have been read, as before a second attack
    seen: set[int] = set()
    pending: list[Any] = [target.view(ThreatModel.preset("white_box"), "main")]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type) or (callable(item) and hasattr(item, "__globals__")):
            continue
        seen.add(id(item))
        assert item is not target.test
        if isinstance(item, Tensor):
            assert item.data_ptr() != target.test.images.data_ptr()
        pending.extend(gc.get_referents(item))


def test_a_stranger_s_encoder_that_leaks_is_caught() -> None:
    """Under the name of features it sends the picture itself."""
    leaking = CallableSubject(lambda x: x.flatten(1) * 3 + 1, PICTURE)
    found = audited(leaking, Entry(PlugInSpec(name="ridge")))
    assert "not_above_reference" in failed(found)


def test_a_stranger_s_encoder_that_keeps_the_class_alone_passes() -> None:
    coarse = CallableSubject(lambda x: x.mean((1, 2, 3))[:, None].repeat(1, 64), PICTURE)
    found = audited(coarse, Entry(PlugInSpec(name="ridge")))
    assert "not_above_reference" not in failed(found)


def test_what_the_threat_does_not_grant_is_listed_and_not_run() -> None:
    many = Entry(PlugInSpec(name="ridge"), observations=16)
    found = audited(subject(Gaussian(0.3)), decoder(epochs=1), many, threat=ThreatModel.preset("black_box"))
    assert found.skipped == {"ridge on 16 releases": "needs 16 releases of one picture"}
    with pytest.raises(ThreatModelError, match="lets some attack run, got none that does: ridge on 16 releases needs"):
        audited(subject(Gaussian(0.3)), many, threat=ThreatModel.preset("black_box"))


def test_sixteen_releases_leak_more_than_one() -> None:
    granted = ThreatModel(subject().offers, observations=16)
    ridge = PlugInSpec(name="ridge")
    found = audited(
        subject(Gaussian(0.5)),
        Entry(ridge),
        Entry(ridge, observations=16),
        Entry(ridge, observations=16, duplicates="near"),
        threat=granted,
    )
    one, many, near = (item.metrics["mse"].mean for item in found.attacks)
    assert many < near < one
    assert found.worst["mse"].cheapest_needs == ("pairs", "16 releases of a picture")


def test_the_reference_encoder_has_the_subject_s_payload() -> None:
    from splitveil.audit.reference import reference_subject

    for attacked in (subject(), CallableSubject(lambda x: x.flatten(1), PICTURE)):
        pictures = auxiliary(64)
        for labels in (None, pictures.labels):
            plain = reference_subject(PICTURE, attacked.release_spec, pictures, labels, Rng(0))
            r = plain.release(pictures.get(torch.arange(3))[0], None)  # type: ignore[arg-type]
            assert r.shape[1:] == attacked.release_spec.shape
