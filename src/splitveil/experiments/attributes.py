"""Attribute inference on a test table, beside chance and beside the same probe on the raw pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splitveil.attacks.view import AttackerView
from splitveil.contracts import AttributeAttack, Subject, Summary
from splitveil.data.loader import Pictures
from splitveil.experiments.reidentification import raw_subject
from splitveil.experiments.scoring import release_all
from splitveil.metrics.labels import accuracy
from splitveil.metrics.summary import summarize
from splitveil.rng import Rng
from splitveil.threats import Grant, ThreatModel

__all__ = ["AttributeInference", "infer_attribute"]

_USED: frozenset[Grant] = frozenset({"query", "pairs", "labels"})


@dataclass(frozen=True, slots=True, eq=False)
class AttributeInference:
    """How often an attribute is read from releases.

    Args:
        correct: ``(n,)`` float32, 0 or 1 per test picture.
        summary: of these.
        chance: of always naming the majority class of the auxiliary pictures, on the same test pictures.
        ceiling: the same attack on the raw pictures, ``(n,)``.
        ceiling_summary: of these.
        facts: of the fitted probe.
    """

    correct: Tensor
    summary: Summary
    chance: float
    ceiling: Tensor
    ceiling_summary: Summary
    facts: dict[str, object]


def infer_attribute(
    subject: Subject,
    auxiliary: Pictures,
    test: Pictures,
    attack: AttributeAttack,
    *,
    rng: Rng,
    threat: ThreatModel | None = None,
) -> AttributeInference:
    """Fit a probe on auxiliary pictures and score it on the releases of test pictures.

    Args:
        subject: what releases.
        auxiliary: the attacker's pictures, with the attribute as label.
        test: pictures that no attacker learned from, with the attribute as label.
        attack: learns to read it.
        rng: key of releases and attackers.
        threat: what is granted; by default all of queries, pairs and labels that the subject offers.

    Raises:
        ThreatModelError: the attack needs more than is granted.
    """
    granted = threat if threat is not None else ThreatModel(_USED & subject.offers)
    scores, facts = [], []
    for attacked, allowed in ((subject, granted), (raw_subject(subject.input_shape), ThreatModel(_USED))):
        view = AttackerView(attacked, allowed, auxiliary=auxiliary, rng=rng.child("view"))
        probe = attack.fit(view, rng.child("fit"))
        logits = probe.predict(release_all(attacked, test, allowed, rng.child("test")))
        scores.append(accuracy(logits, test.labels).cpu())
        facts.append(probe.facts)
    majority = int(torch.bincount(auxiliary.labels).argmax())
    correct, ceiling = scores
    key = rng.child("bootstrap")
    return AttributeInference(
        correct=correct,
        summary=summarize(correct, rng=key, safer="lower"),
        chance=float((test.labels == majority).double().mean()),
        ceiling=ceiling,
        ceiling_summary=summarize(ceiling, rng=key, safer="lower"),
        facts=facts[0],
    )
