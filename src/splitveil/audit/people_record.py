"""What an audit of identities found, as it is written: ``people.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from splitveil.records import FiledRecord, MetricResult
from splitveil.specs import Frozen, PlugInSpec

__all__ = ["PEOPLE_FILE", "PeopleRecord", "Person"]

PEOPLE_FILE = "people.json"


class Person(Frozen):
    """How often one person was found, over this person's pictures."""

    name: str
    found: float
    pictures: int


class PeopleRecord(FiledRecord):
    """How often people are found by their releases, by an attacker who learned on other people.

    Args:
        subject: what was audited.
        attack: that learned to find people.
        threat: what it was granted.
        seed: of folds, galleries and attackers.
        gallery: known releases of each person.
        galleries: people in the gallery of each fold.
        found: rank-1 accuracy with its interval over pictures.
        by_person: the same with its interval over people: the one to quote for other people.
        ceiling: what the same attacker finds from the raw pictures.
        chance: of a guess.
        people: the most often found first.
        elapsed_s: of the audit.
    """

    file: ClassVar[str] = PEOPLE_FILE
    what: ClassVar[str] = "an audit of identities"
    command: ClassVar[str] = "audit --people"

    format: Literal[1] = 1
    subject: str
    attack: PlugInSpec
    threat: dict[str, Any]
    seed: int
    gallery: int
    galleries: tuple[int, ...]
    found: MetricResult
    by_person: MetricResult
    ceiling: MetricResult
    chance: float
    people: tuple[Person, ...]
    elapsed_s: float
