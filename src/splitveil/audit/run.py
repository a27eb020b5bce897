"""Audits: everything that a threat model grants is tried, and the least safe score counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from splitveil.attacks.storage import load_inverter
from splitveil.attacks.subjects import ModelSubject
from splitveil.audit import controls
from splitveil.audit.judges import RECOGNISED, likeness_judge, recognition_judge
from splitveil.audit.judging import needs_of, worst_scores
from splitveil.audit.record import AuditRecord, ControlResult
from splitveil.audit.reference import reference_subject
from splitveil.audit.suites import Entry, Suite, load_suite
from splitveil.contracts import NoiseSource, NoiseSpec
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.defenses import load_defense
from splitveil.errors import SpecError, ThreatModelError
from splitveil.experiments.attacking import attack_target, fit_and_score, run_target
from splitveil.experiments.recipes import Recipe
from splitveil.experiments.scoring import reconstruct, score_pictures
from splitveil.experiments.target import Target, summarise
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.noise import SeededNoise
from splitveil.records import AttackResult, MetricResult, RunRecord
from splitveil.registry import ATTACKS
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["audit_run", "audit_target", "find_undefended"]

Observe = Callable[[str], Observer]
"""From the name of a part of the audit to who watches it."""

_BATCH = 512
_MORE_NOISE = 2.0


def audit_run(
    record: RunRecord,
    *,
    suite: str = "standard",
    recipe: Recipe,
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
    adaptive, known = _adaptive_twin(record)
    plan = load_suite(suite, recipe).with_adaptive(adaptive, recipe, known)
    data = data or load_data_spec(record.spec.data, observe("data"))
    target = run_target(record, seed=seed, device=device, trusted=trusted, data=data)
    ceiling = _seat_judges(target, hold(data.splits.aux, target.test.device), data.source.classes, lpips_weights)

    def attack(entry: Entry, seen: ThreatModel) -> AttackResult:
        return attack_target(
            record, target, entry.attack, threat=seen, pictures=entry.pictures, observer=observe(entry.label)
        )

    results, skipped = _attack_all(plan, threat, attack)
    twin = _on_undefended(undefended, results, data, seed, observe, device, trusted)
    found = _assemble(
        target, plan, threat, results, skipped, twin, subject=subject or str(record.path), adaptive=adaptive,
        observe=observe, noise=_with_more_noise(record, target, results, threat),
    )  # fmt: skip
    found = found.model_copy(update={"elapsed_s": time.monotonic() - started, "recognition_ceiling": ceiling})
    found.write(record.path)
    return found


def _seat_judges(target: Target, pictures: Pictures, classes: int, lpips_weights: Path | None) -> MetricResult:
    """Let an independent classifier, and LPIPS where there are weights, look at every reconstruction."""
    target.judges[RECOGNISED], ceiling = recognition_judge(target, pictures, classes)
    if lpips_weights is not None:
        target.judges["lpips"] = likeness_judge(target, lpips_weights)
    return ceiling


def find_undefended(record: RunRecord, records: Sequence[RunRecord]) -> RunRecord | None:
    """The undefended run of the same data and model among these, of the same seed where there is one."""
    spec = record.spec
    same = [
        other
        for other in records
        if other.finished
        and (other.spec.defense.name, other.spec.data, other.spec.model) == ("none", spec.data, spec.model)
    ]
    return next((other for other in same if other.spec.seed == spec.seed), same[0] if same else None)


def audit_target(
    target: Target,
    plan: Suite,
    threat: ThreatModel,
    *,
    subject: str,
    adaptive: str,
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
    found = _assemble(
        target, plan, threat, results, skipped, [], subject=subject, adaptive=adaptive, observe=observe, noise=None
    )
    return found.model_copy(update={"elapsed_s": time.monotonic() - started}), kept


def _adaptive_twin(record: RunRecord) -> tuple[str, Mapping[str, Any]]:
    """The attack that knows the defense, and what it knows of it."""
    defense = record.spec.defense
    loaded = load_defense(defense.name, defense.params)
    name = loaded.adaptive
    if name not in ATTACKS:
        raise SpecError(
            f"expected a registered attack that knows defense '{defense.name}', got '{name}': an audit without one "
            "grades nothing; set `adaptive` of the defense"
        )
    return name, loaded.adaptive_params


def _attack_all(
    plan: Suite, threat: ThreatModel, attack: Callable[[Entry, ThreatModel], AttackResult]
) -> tuple[list[AttackResult], dict[str, str]]:
    results, skipped = list[AttackResult](), dict[str, str]()
    for entry in plan.entries:
        reason = entry.refused(threat)
        if reason is not None:
            skipped[entry.label] = reason
        else:
            results.append(attack(entry, entry.threat(threat)))
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
) -> list[AttackResult]:
    """The best attack on the subject, on its undefended twin."""
    if undefended is None:
        return []
    best = _best(results)
    twin = run_target(undefended, seed=seed, device=device, trusted=trusted, data=data)
    threat = ThreatModel.from_json(best.threat)
    scored, watched = best.metrics["mse"].n, observe(f"{best.attack.name} on none")
    pictures = scored if scored < len(twin.test) else None
    return [attack_target(undefended, twin, best.attack, threat=threat, pictures=pictures, observer=watched)]


def _best(results: Sequence[AttackResult]) -> AttackResult:
    return min(results, key=lambda attack: attack.metrics["mse"].mean)


def _assemble(
    target: Target,
    plan: Suite,
    threat: ThreatModel,
    results: Sequence[AttackResult],
    skipped: dict[str, str],
    twin: Sequence[AttackResult],
    *,
    subject: str,
    adaptive: str,
    observe: Observe,
    noise: tuple[MetricResult, MetricResult] | None,
) -> AuditRecord:
    reference = [] if twin else _on_reference(target, plan, adaptive, threat, observe)
    proving, where = (twin, "the undefended twin") if twin else (reference, "the reference encoder")
    checks: tuple[ControlResult, ...] = (
        controls.attack_works(proving, where),
        controls.no_worse_than_controls(results),
        controls.undefended_is_worst(results, twin),
        controls.not_above_reference(results, reference),
        controls.less_with_noise(*(noise or (None, None))),
        controls.converged(results),
    )
    return AuditRecord(
        subject=subject,
        suite=plan.name,
        budget=plan.budget,
        threat=threat.to_json(),
        adaptive=adaptive,
        seed=target.seed,
        pictures=len(target.test),
        attacks=tuple(results),
        needs={attack.key: tuple(needs_of(attack)) for attack in results},
        skipped=skipped,
        worst=worst_scores(results),
        controls=checks,
        status=controls.status_of(checks),
        queries=sum(int(item.facts["queries"]) for item in results),
        elapsed_s=0.0,
    )


def _on_reference(
    target: Target, plan: Suite, adaptive: str, threat: ThreatModel, observe: Observe
) -> list[AttackResult]:
    """The suite's attack that knows the defense, on a plain encoder of the same payload as a black box."""
    pictures = target.auxiliary(threat)
    if pictures is None:
        return []
    seen = ThreatModel(frozenset({"query", "pairs", "labels"}), auxiliary=threat.auxiliary, shift=threat.shift)
    possible = [entry for entry in plan.entries if entry.observations == 1 and not entry.refused(seen)]
    if not possible:
        return []
    entry = next((entry for entry in possible if entry.attack.name == adaptive), possible[0])
    labels = pictures.labels if threat.allows("labels") else None
    plain = reference_subject(
        target.subject.input_shape, target.subject.release_spec, pictures, labels, target.rng.child("reference")
    )
    stand_in = Target(plain, test=target.test, auxiliary=lambda _: pictures, seed=target.seed)
    label = f"{entry.label} on a reference encoder"
    return [fit_and_score(stand_in, entry.attack, threat=seen, observer=observe(label))[0]]


def _with_more_noise(
    record: RunRecord, target: Target, results: Sequence[AttackResult], threat: ThreatModel
) -> tuple[MetricResult, MetricResult] | None:
    """The error of the best stored attack that saw one release, and its error with twice the noise."""
    model = cast(ModelSubject, target.subject).model
    stored = [item for item in results if (record.path / "attackers" / f"{item.key}.safetensors").is_file()]
    once = [item for item in stored if ThreatModel.from_json(item.threat).observations == 1]
    if not once or not model.noise_specs or any(spec.law != "standard_normal" for spec in model.noise_specs):
        return None
    best = _best(once)
    inverter = load_inverter(record.path / "attackers" / f"{best.key}.safetensors").to(target.test.device)
    releases, start = [], 0
    for x, _ in target.test.batches(_BATCH):
        releases.append(target.subject.release(x, _Scaled(SeededNoise(target.rng.child("test"), start), _MORE_NOISE)))
        start += len(x)
    scores = score_pictures(reconstruct(inverter, torch.cat(releases)), target.test)
    return best.metrics["mse"], summarise(scores, target.rng)["mse"]


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The draws of another source, times a factor."""

    source: NoiseSource
    factor: float

    def draw(self, spec: NoiseSpec, n: int) -> Tensor:
        return self.factor * self.source.draw(spec, n)
