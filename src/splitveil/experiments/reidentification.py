"""Re-identification over all people of a table: folds of people, so that each picture is looked for once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from splitveil.attacks.subjects import CallableSubject
from splitveil.attacks.view import AttackerView
from splitveil.contracts import FeatureSpec, Identifier, IdentityAttack, Subject, Summary
from splitveil.data.loader import Pictures
from splitveil.errors import InputError, SpecError
from splitveil.experiments.scoring import release_all
from splitveil.metrics.identification import chance_level, identity_scores, rank_accuracy
from splitveil.metrics.summary import summarize
from splitveil.rng import Rng
from splitveil.threats import Grant, ThreatModel

__all__ = ["Reidentification", "raw_subject", "reidentify"]

_USED: frozenset[Grant] = frozenset({"query", "pairs", "labels"})


@dataclass(frozen=True, slots=True, eq=False)
class Reidentification:
    """How often people are found by their releases.

    Args:
        correct: ``(n,)`` float64, expected rank-1 accuracy of each picture.
        summary: of these, with an interval over pictures.
        by_identity: of each person's mean, with an interval over people: the one to quote for other people.
        chance: of a guess, mean over the pictures.
        ceiling: the same attacker on the raw pictures, ``(n,)``.
        ceiling_summary: of these.
        galleries: people in the gallery of each fold.
    """

    correct: Tensor
    summary: Summary
    by_identity: Summary
    chance: float
    ceiling: Tensor
    ceiling_summary: Summary
    galleries: tuple[int, ...]


def reidentify(
    subject: Subject,
    pictures: Pictures,
    attack: IdentityAttack,
    *,
    rng: Rng,
    threat: ThreatModel | None = None,
    folds: int = 5,
    gallery: int = 1,
) -> Reidentification:
    """Attack each fold of people with an attacker that learned from all others.

    ```
    people of the other folds --[ view ]-- Attack.fit -- Identifier
    people of the fold        --[ release ]-- each picture against `gallery` other pictures of each of them -- rank 1
    ```

    Args:
        subject: what releases.
        pictures: with the identity as label; at least ``gallery + 1`` of each person.
        attack: learns to identify.
        rng: key of folds, galleries, releases and attackers.
        threat: what is granted; by default all of queries, pairs and labels that the subject offers.
        folds: of people.
        gallery: known releases of each person.

    Raises:
        SpecError: folds or gallery out of range.
        InputError: too few people, or pictures of one.
        ThreatModelError: the attack needs more than is granted.
    """
    people, person = torch.unique(pictures.labels.cpu(), return_inverse=True)
    _check(person, len(people), folds, gallery)
    granted = threat if threat is not None else ThreatModel(_USED & subject.offers)
    raw, free = raw_subject(subject.input_shape), ThreatModel(_USED)
    releases = release_all(subject, pictures, granted, rng.child("victims"))
    originals = release_all(raw, pictures, free, rng)
    correct, ceiling = torch.zeros(len(person), dtype=torch.float64), torch.zeros(len(person), dtype=torch.float64)
    chance, galleries = 0.0, []
    for fold, (known, hidden) in enumerate(_folds(person, folds, rng.child("folds"))):
        held, key = pictures.take(known), rng.child("fold", fold)
        draws = _draw_galleries(person[hidden], gallery, key.child("gallery"))
        for attacked, allowed, r, found in ((subject, granted, releases, correct), (raw, free, originals, ceiling)):
            view = AttackerView(attacked, allowed, auxiliary=held, rng=key.child("view"))
            identifier = attack.fit(view, key.child("fit"))
            found[hidden] = _rank_one(identifier, r[hidden.to(r.device)], person[hidden], draws)
        galleries.append(len(torch.unique(person[hidden])))
        chance += chance_level(galleries[-1]) * len(hidden) / len(person)
    of_people = torch.zeros(len(people), dtype=torch.float64).index_add_(0, person, correct) / torch.bincount(person)
    key = rng.child("bootstrap")
    return Reidentification(
        correct=correct,
        summary=summarize(correct, rng=key, safer="lower"),
        by_identity=summarize(of_people, rng=key, safer="lower"),
        chance=chance,
        ceiling=ceiling,
        ceiling_summary=summarize(ceiling, rng=key, safer="lower"),
        galleries=tuple(galleries),
    )


def raw_subject(input_shape: tuple[int, ...]) -> CallableSubject:
    """The picture itself as the release: what an attacker of a head that hides nothing would see.

    Example:
        >>> raw_subject((1, 8, 8)).release_spec.range
        (0.0, 1.0)
    """
    return CallableSubject(lambda x: x, input_shape, FeatureSpec.of(input_shape, range=(0.0, 1.0)))


def _check(person: Tensor, people: int, folds: int, gallery: int) -> None:
    if folds < 2 or gallery < 1:
        raise SpecError(f"expected folds >= 2 and gallery >= 1, got {folds} and {gallery}")
    if people < 2 * folds:
        raise InputError(f"expected at least {2 * folds} people for {folds} folds, got {people}: take fewer folds")
    fewest = int(torch.bincount(person).min())
    if fewest <= gallery:
        raise InputError(
            f"expected at least {gallery + 1} pictures of each person, one to look for and {gallery} in the gallery, "
            f"got {fewest} of one: add pictures, or leave that person out"
        )


def _folds(person: Tensor, folds: int, rng: Rng) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of the attacker's pictures and of the victims', by people; each picture is a victim's once."""
    from sklearn.model_selection import GroupKFold

    # scikit-learn sorts groups by size and number, so random numbers make random folds
    numbers = rng.numpy().permutation(int(person.max()) + 1)[person.numpy()]
    folding: Any = cast(Any, GroupKFold)(folds)
    for known, hidden in folding.split(np.zeros(len(numbers)), groups=numbers):
        yield torch.from_numpy(known), torch.from_numpy(hidden)


def _draw_galleries(person: Tensor, gallery: int, rng: Rng) -> Tensor:
    """Which pictures each picture is compared with, ``(n, n)`` bool: so many of each person, never itself."""
    lots = torch.rand(len(person), len(person), generator=rng.generator())
    lots.fill_diagonal_(-1.0)
    drawn = torch.zeros(lots.shape, dtype=torch.bool)
    for number in torch.unique(person):
        columns = torch.nonzero(person == number).flatten()
        chosen = columns[lots[:, columns].topk(gallery, dim=1).indices]
        drawn.scatter_(1, chosen, True)
    return drawn


def _rank_one(identifier: Identifier, r: Tensor, person: Tensor, draws: Tensor) -> Tensor:
    similarity = identifier.scores(r, r).cpu().masked_fill(~draws, -torch.inf)
    people, number = torch.unique(person, return_inverse=True)
    return rank_accuracy(identity_scores(similarity, number, len(people)), number)
