"""Audits: everything that a threat model grants is tried, and the least safe score counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from splitveil.audit import controls
from splitveil.audit.budget import on_half_the_epochs
from splitveil.audit.judges import RECOGNISED, likeness_judge, recognition_judge
from splitveil.audit.judging import needs_of, needs_of_class, worst_scores
from splitveil.audit.noise import on_other_draws, with_more_noise
from splitveil.audit.record import AuditRecord, ControlResult
from splitveil.audit.reference import reference_subject
from splitveil.audit.suites import Entry, Suite, load_suite
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.data.paired import PairedPictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.base import AttackPart, load_defense
from splitveil.errors import SpecError, ThreatModelError
from splitveil.experiments.attacking import attack_target, find_attack, fit_and_score, run_target
from splitveil.experiments.recipes import Recipe
from splitveil.experiments.target import Target
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.files import write_text
from splitveil.records import AttackResult, MetricResult, RunRecord
from splitveil.registry import ATTACKS
from splitveil.specs import parse, read_json
from splitveil.threats import Grant, ThreatModel
from splitveil.training.observer import Observer

__all__ = ["audit_run", "audit_target", "find_undefended", "seat_judges"]

Observe = Callable[[str], Observer]
"""From the name of a part of the audit to who watches it."""

_FEWEST_CLASSES = 2


def audit_run(
    record: RunRecord,
    *,
    suite: str = "standard",
    recipe: Recipe,
    effort: int = 1,
    threat: ThreatModel | None = None,
    seed: int = 0,
    undefended: RunRecord | None = None,
    observe: Observe = lambda _: Observer(),
    device: str | None = None,
    trusted: str | None = None,
    lpips_weights: Path | None = None,
    data: LoadedData | None = None,
    subject: str | None = None,
) -> AuditRecord:
    """Audit a finished run, and write ``audit.json`` into its folder.

    Attacks that its record holds already, under the same parameters, threat and seed, are not run again: an audit
    that was stopped goes on.

    Args:
        record: the run.
        suite: ``quick``, ``standard`` or ``strong``.
        recipe: the scale of the attacks.
        effort: times the recipe's epochs, for what attackers train; for where one was still learning.
        threat: what attackers are granted; white box by default.
        seed: of all attacks.
        undefended: the same model without a defense. Where there is none, the suite trains a plain encoder of the
            same payload to prove its attacks on.
        observe: watches.
        device: see `train_run`.
        trusted: a model factory outside splitveil that the user named.
        lpips_weights: a file of weights to measure LPIPS with.
        data: pictures that are loaded already.
        subject: what to call the run; its folder by default.

    Raises:
        SpecError: the defense names no attack that knows it, so that there is nothing to grade it with.
        ThreatModelError: the threat model grants nothing that an attack of the suite can use.
    """
    started, threat = time.monotonic(), threat or ThreatModel.preset("white_box")
    recipe = recipe.with_effort(effort)
    plan, adaptive = load_suite(suite, recipe), _adaptive_twins(record)
    for twin in adaptive:
        plan = plan.with_adaptive(twin.name, recipe, twin.params)
    plan = plan.granted(threat, recipe)
    data = data or load_data_spec(record.spec.data, observe("data"))
    target = run_target(record, seed=seed, device=device, trusted=trusted, data=data)
    plan = plan.reading(target.subject.release_spec)
    ceiling = seat_judges(target, hold(data.splits.aux, target.test.device), data.source.classes, lpips_weights)

    def attack(entry: Entry, seen: ThreatModel) -> AttackResult:
        return attack_target(
            record, target, entry.attack, threat=seen, pictures=entry.pictures, observer=observe(entry.label)
        )

    results, skipped = _attack_all(plan, threat, attack)
    proof = _on_undefended(undefended, results, data, seed, observe, device, trusted)
    itself = undefended is not None and undefended.path.resolve() == record.path.resolve()
    found = _assemble(
        target, plan, threat, results, skipped, proof, subject=subject or str(record.path),
        adaptive=tuple(twin.name for twin in adaptive), observe=observe, itself=itself, folder=record.path,
    )  # fmt: skip
    found = found.model_copy(update={"elapsed_s": time.monotonic() - started, "recognition_ceiling": ceiling})
    found.write(record.path)
    return found


def seat_judges(
    target: Target, pictures: Pictures | None, classes: int, lpips_weights: Path | None
) -> MetricResult | None:
    """Let an independent classifier, and LPIPS where there are weights, look at every reconstruction.

    Args:
        target: of the attacks.
        pictures: with labels, to train the classifier on; None where there are none.
        classes: k.
        lpips_weights: a file, or None.

    Returns:
        How many of the originals the classifier recognises; None where there is none.
    """
    ceiling = None
    if pictures is not None and classes >= _FEWEST_CLASSES:
        target.judges[RECOGNISED], ceiling = recognition_judge(target, pictures, classes)
    if lpips_weights is not None:
        target.judges["lpips"] = likeness_judge(target, lpips_weights)
    return ceiling


def find_undefended(record: RunRecord, records: Sequence[RunRecord]) -> RunRecord | None:
    """The undefended run of the same data and model among these, of the same seed where there is one."""
    spec = record.spec
    same = [other for other in records if other.finished and other.spec.is_control_of(spec)]
    return next((other for other in same if other.spec.seed == spec.seed), same[0] if same else None)


def audit_target(
    target: Target,
    plan: Suite,
    threat: ThreatModel,
    *,
    subject: str,
    adaptive: tuple[str, ...],
    observe: Observe = lambda _: Observer(),
) -> tuple[AuditRecord, dict[str, dict[str, Tensor]]]:
    """Audit what has no run of ours: somebody else's encoder.

    Returns:
        The record, and by attack its pictures and scores.
    """
    started, kept = time.monotonic(), dict[str, dict[str, Tensor]]()

    def attack(entry: Entry, seen: ThreatModel) -> AttackResult:
        result, _, samples = fit_and_score(
            target, entry.attack, threat=seen, pictures=entry.pictures, observer=observe(entry.label)
        )
        kept[result.key] = samples
        return result

    results, skipped = _attack_all(plan, threat, attack)
    found = _assemble(target, plan, threat, results, skipped, None, subject=subject, adaptive=adaptive, observe=observe)
    return found.model_copy(update={"elapsed_s": time.monotonic() - started}), kept


def _adaptive_twins(record: RunRecord) -> tuple[AttackPart, ...]:
    """The attacks that know the defense, and what they know of it."""
    defense = record.spec.defense
    twins = load_defense(defense.name, defense.params).adaptive
    unknown = [twin.name for twin in twins if twin.name not in ATTACKS]
    if unknown or not twins:
        raise SpecError(
            f"expected a registered attack that knows defense '{defense.name}', got {', '.join(unknown) or 'none'}: "
            "an audit without one grades nothing; set `adaptive` of the defense"
        )
    return twins


def _attack_all(
    plan: Suite, threat: ThreatModel, attack: Callable[[Entry, ThreatModel], AttackResult]
) -> tuple[list[AttackResult], dict[str, str]]:
    results, skipped = list[AttackResult](), dict[str, str]()
    for entry in plan.entries:
        reason = entry.refused(threat)
        if reason is None:
            try:
                results.append(attack(entry, entry.threat(threat)))
            except ThreatModelError as error:  # such as a budget that does not pay for it
                reason = str(error)
        if reason is not None:
            skipped[entry.label] = reason
    if not results:
        reasons = "; ".join(f"{name} {reason}" for name, reason in skipped.items())
        raise ThreatModelError(f"expected a threat model that lets some attack run, got none that does: {reasons}")
    return results, skipped


def _on_undefended(
    undefended: RunRecord | None,
    results: Sequence[AttackResult],
    data: LoadedData,
    seed: int,
    observe: Observe,
    device: str | None,
    trusted: str | None,
) -> controls.Proof | None:
    """The best attack on the subject, on its undefended twin."""
    if undefended is None:
        return None
    best = _best(results)
    twin = run_target(undefended, seed=seed, device=device, trusted=trusted, data=data)
    threat = replace(ThreatModel.from_json(best.threat), query_budget=None)  # the yardsticks have none either
    pictures, watched = _scored(best, twin), observe(f"{best.attack.name} on none")
    found = attack_target(undefended, twin, best.attack, threat=threat, pictures=pictures, observer=watched)
    return controls.Proof(found, _yardsticks(twin, threat, pictures), "the undefended twin")


def _yardsticks(target: Target, threat: ThreatModel, pictures: int | None) -> dict[str, dict[str, MetricResult]]:
    """What the controls score on a subject: the auditor has labels and pairs, whatever the attacker is granted."""
    held: frozenset[Grant] = threat.grants | (target.subject.offers & {"query", "pairs", "labels"})
    return target.controls(replace(threat, grants=held, query_budget=None), target.places(pictures))


def _scored(attack: AttackResult, target: Target) -> int | None:
    """How many test pictures an attack was scored on; None for all."""
    count = attack.metrics["mse"].n
    return count if count < len(target.test) else None


def _best(results: Sequence[AttackResult]) -> AttackResult:
    return min(results, key=lambda attack: attack.metrics["mse"].mean)


def _assemble(
    target: Target,
    plan: Suite,
    threat: ThreatModel,
    results: Sequence[AttackResult],
    skipped: dict[str, str],
    proof: controls.Proof | None,
    *,
    subject: str,
    adaptive: tuple[str, ...],
    observe: Observe,
    itself: bool = False,
    folder: Path | None = None,
) -> AuditRecord:
    """The record; `proof` is of the undefended twin, which is the subject `itself` where that hides nothing."""
    twin = [] if proof is None or itself else [proof.attack]
    stand_in = _on_reference(target, results, threat, observe) if proof is None else None
    reference = [] if stand_in is None else [stand_in.attack]
    best = _best(results)
    draws = on_other_draws(target, best, _scored(best, target), observe("other draws of the noise"))
    checks: tuple[ControlResult, ...] = (
        controls.attack_works(proof or stand_in),
        controls.adaptive_tried(adaptive, results, skipped),
        controls.no_worse_than_controls(results),
        controls.undefended_is_worst(results, twin),
        controls.not_above_reference(results, reference),
        controls.less_with_noise(*(with_more_noise(target, results) or (None, None))),
        controls.same_on_other_draws(best, draws),
        controls.converged(results),
        controls.budget_suffices(best, _on_half(target, best, observe, folder)),
    )
    return AuditRecord(
        subject=subject,
        suite=plan.name,
        budget=plan.budget,
        threat=threat.to_json(),
        adaptive=", ".join(adaptive),
        seed=target.seed,
        pictures=len(target.test),
        attacks=tuple(results),
        needs={attack.key: tuple(needs_of(attack)) for attack in results},
        skipped=skipped,
        worst=worst_scores(results),
        controls=checks,
        status=controls.status_of(checks),
        queries=sum(int(item.facts["queries"]) for item in results) + target.control_queries,
        elapsed_s=0.0,
    )


def _on_reference(
    target: Target, results: Sequence[AttackResult], threat: ThreatModel, observe: Observe
) -> controls.Proof | None:
    """The best attack on the subject, under the grants that it had there, on a plain encoder of the same payload."""
    pictures = target.auxiliary(threat)
    if pictures is None:
        return None
    if isinstance(pictures, PairedPictures):  # their releases are the subject's
        pictures = Pictures(ImageTable(pictures.images, pictures.labels), pictures.device)
    best = _best(results)
    labels = pictures.labels if threat.allows("labels") else None
    plain = reference_subject(
        target.subject.input_shape, target.subject.release_spec, pictures, labels, target.rng.child("reference")
    )
    had = ThreatModel.from_json(best.threat)
    seen = replace(had, grants=had.grants & plain.offers, query_budget=None)
    if seen.missing(needs_of_class(best)):
        return None
    few = _scored(best, target)
    stand_in = Target(plain, test=target.test, auxiliary=lambda _: pictures, seed=target.seed, traffic=target.traffic)
    label = f"{best.attack.name} on a reference encoder"
    found = fit_and_score(stand_in, best.attack, threat=seen, pictures=few, observer=observe(label))[0]
    return controls.Proof(found, _yardsticks(stand_in, seen, few), "the reference encoder")


def _on_half(target: Target, best: AttackResult, observe: Observe, folder: Path | None) -> MetricResult | None:
    """The error of an attack on half its epochs, on the same pictures; kept in the folder of a run.

    An audit with twice the effort finds it among the attacks of the one before.
    """
    halved = on_half_the_epochs(best.attack)
    if halved is None:
        return None
    threat, few = ThreatModel.from_json(best.threat), _scored(best, target)
    name = "-".join(part for part in (best.key, target.auxiliary_digest(threat)) if part)
    kept = None if folder is None else folder / "halved" / f"{name}.json"
    if kept is not None and kept.is_file():
        return parse(MetricResult, read_json(kept), str(kept))
    earlier = None
    if folder is not None:
        earlier = find_attack(RunRecord(folder), target, halved, threat=threat, pictures=few)
    if earlier is not None:
        return earlier.metrics["mse"]
    watched = observe(f"{best.attack.name} on half the epochs")
    found = fit_and_score(target, halved, threat=threat, pictures=few, observer=watched)[0].metrics["mse"]
    if kept is not None:
        write_text(kept, found.model_dump_json(indent=2) + "\n")
    return found
