"""Audits of identities: whose release is it, where the labels of a run are people."""

from __future__ import annotations

import time
from typing import cast

import torch

from splitveil.attacks.subjects import ModelSubject
from splitveil.audit.people_record import PeopleRecord, Person
from splitveil.contracts import IdentityAttack
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.experiments.attacking import load_model
from splitveil.experiments.environment import pick_device
from splitveil.experiments.reidentification import Reidentification, reidentify
from splitveil.experiments.scoring import as_result
from splitveil.experiments.training import load_data_spec
from splitveil.records import RunRecord
from splitveil.registry import ATTACKS, build
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["DEFAULT_ATTACK", "SEARCHERS", "find_people"]

DEFAULT_ATTACK = PlugInSpec(name="identify")
SEARCHERS = ThreatModel(frozenset({"query", "pairs", "labels"}))


def find_people(
    record: RunRecord,
    *,
    attack: PlugInSpec = DEFAULT_ATTACK,
    threat: ThreatModel | None = None,
    folds: int = 5,
    gallery: int = 1,
    seed: int = 0,
    observer: Observer | None = None,
    device: str | None = None,
    trusted: str | None = None,
) -> PeopleRecord:
    """Look for the people of a finished run's test pictures, and write ``people.json`` into its folder.

    Args:
        record: a run whose labels are people.
        attack: one that identifies.
        threat: what it is granted; pairs, queries and labels by default.
        folds: of people; the attacker learns on those of the others.
        gallery: known releases of each person.
        seed: of folds, galleries and attackers.
        observer: hears of loading.
        device: see `train_run`.
        trusted: a model factory outside splitveil that the user named.

    Raises:
        InputError: too few people, or too few pictures of one.
    """
    started, chosen = time.monotonic(), pick_device(device)
    data = load_data_spec(record.spec.data, observer)
    subject = ModelSubject(load_model(record, data, device=chosen, trusted=trusted))
    granted = threat or SEARCHERS
    configured = cast(IdentityAttack, build(ATTACKS.load(attack.name), attack.params, f"attack '{attack.name}'"))
    pictures = hold(data.splits.test, chosen)
    result = reidentify(
        subject, pictures, configured, rng=Rng(seed).child("people"), threat=granted, folds=folds, gallery=gallery
    )
    found = PeopleRecord(
        subject=str(record.path),
        attack=attack,
        threat=granted.to_json(),
        seed=seed,
        gallery=gallery,
        galleries=result.galleries,
        found=as_result(result.summary, unit="", safer="lower"),
        by_person=as_result(result.by_identity, unit="", safer="lower"),
        ceiling=as_result(result.ceiling_summary, unit="", safer="lower"),
        chance=result.chance,
        people=_people(result, pictures, data.source.class_names),
        elapsed_s=time.monotonic() - started,
    )
    found.write(record.path)
    return found


def _people(result: Reidentification, pictures: Pictures, names: tuple[str, ...] | list[str]) -> tuple[Person, ...]:
    numbers, person, counts = torch.unique(pictures.labels.cpu(), return_inverse=True, return_counts=True)
    shares = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, person, result.correct) / counts
    rows = [
        Person(name=str(names[number]), found=share, pictures=count)
        for number, share, count in zip(numbers.tolist(), shares.tolist(), counts.tolist(), strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.found, row.name)))
