"""Attack a run: fit what its threat model allows, score every test picture, stand the controls beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from splitveil.attacks.inverters import FittedInverter
from splitveil.attacks.storage import save_inverter
from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import Attack, Inverter
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.errors import SpecError
from splitveil.experiments.auxiliary import auxiliary_pictures
from splitveil.experiments.building import build_run, count_groups
from splitveil.experiments.environment import pick_device
from splitveil.experiments.storage import load_weights
from splitveil.experiments.target import SHOWN, Target, judge_all, summarise
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.files import write_with
from splitveil.records import AttackResult, RunRecord
from splitveil.registry import ATTACKS, build
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = [
    "attack_key",
    "attack_run",
    "attack_target",
    "configured_attack",
    "find_attack",
    "fit_and_score",
    "load_model",
    "run_target",
    "stored_attack",
]

_WORST = 6
_PICTURES, _JUDGES = "auxiliary_digest", "judges"  # facts
_TRAFFIC = 2000  # pictures whose releases an attacker overhears


def load_model(
    record: RunRecord, data: LoadedData, *, device: torch.device | str = "cpu", trusted: str | None = None
) -> SplitModel:
    """The trained split model of a run, in evaluation mode."""
    model, _, _ = build_run(record.spec, count_groups(record.spec, data.source.classes), trusted)
    load_weights(model, record.path).to(device).to(memory_format=torch.channels_last)
    return model


def attack_run(
    record: RunRecord,
    attack: PlugInSpec,
    *,
    threat: ThreatModel | None = None,
    seed: int = 0,
    observer: Observer | None = None,
    device: str | None = None,
    trusted: str | None = None,
    data: LoadedData | None = None,
) -> AttackResult:
    """Run one attack against a run and add the result to its record; one that is there already is returned.

    The attacker learns from the auxiliary split and is scored on every picture of the test split, neither of which
    the model was trained on.

    Args:
        record: a finished run.
        attack: registry name and parameters.
        threat: what is granted; white box by default.
        seed: of the attack.
        observer: hears of progress.
        device: see `train_run`.
        trusted: a model factory outside splitveil that the user named.
        data: pictures that are loaded already.

    Returns:
        Metrics with intervals, controls, and facts of the fit.
    """
    threat = threat or ThreatModel.preset("white_box")
    earlier = stored_attack(record, attack_key(attack, threat, seed))
    if earlier is not None and not threat.is_foreign:
        return earlier
    target = run_target(record, seed=seed, observer=observer, device=device, trusted=trusted, data=data)
    return attack_target(record, target, attack, threat=threat, observer=observer)


def run_target(
    record: RunRecord,
    *,
    seed: int = 0,
    observer: Observer | None = None,
    device: str | None = None,
    trusted: str | None = None,
    data: LoadedData | None = None,
) -> Target:
    """A finished run as what attacks meet; several attacks on one target share its releases and its controls."""
    chosen, data = pick_device(device), data or load_data_spec(record.spec.data, observer)
    model = load_model(record, data, device=chosen, trusted=trusted)
    return Target(
        ModelSubject(model),
        test=hold(data.splits.test, chosen),
        auxiliary=auxiliary_pictures(data.splits, chosen, Rng(seed).child("auxiliary")),
        seed=seed,
        traffic=hold(data.splits.train.take(torch.arange(min(_TRAFFIC, len(data.splits.train)))), chosen),
    )


def attack_target(
    record: RunRecord,
    target: Target,
    attack: PlugInSpec,
    *,
    threat: ThreatModel,
    pictures: int | None = None,
    observer: Observer | None = None,
) -> AttackResult:
    """Run an attack against the target of a record and add it there.

    One that is there already is returned, unless its samples are lost, or its attacker learned from another data set
    that has changed since. Where a judge of the target has not seen it, its pictures are drawn again: from the network
    that it has learned, or by another search.
    """
    key, spent = attack_key(attack, threat, target.seed, pictures), 0.0
    earlier = find_attack(record, target, attack, threat=threat, pictures=pictures)
    if earlier is not None:
        spent, fitted = earlier.elapsed_s, record.path / "attackers" / f"{key}.safetensors"
        if fitted.is_file():
            target.stored(configured_attack(attack), threat, fitted)
        if _was_seen(earlier, target):
            return earlier
    result, inverter, samples = fit_and_score(target, attack, threat=threat, pictures=pictures, observer=observer)
    result = result.model_copy(update={"elapsed_s": spent + result.elapsed_s})
    _write(record, result, attack, inverter, samples)
    return result


def find_attack(
    record: RunRecord, target: Target, attack: PlugInSpec, *, threat: ThreatModel, pictures: int | None = None
) -> AttackResult | None:
    """What an earlier call of `attack_target` found.

    None where its samples are lost, or its attacker learned from pictures that have changed.
    """
    found = stored_attack(record, attack_key(attack, threat, target.seed, pictures))
    same = found is not None and found.facts.get(_PICTURES, "") == target.auxiliary_digest(threat)
    return found if same else None


def stored_attack(record: RunRecord, key: str) -> AttackResult | None:
    """The attack of this key with its samples; one whose samples are lost is to be run again."""
    found = record.attack(key)
    return found if found is not None and (record.path / found.samples).is_file() else None


def _was_seen(attack: AttackResult, target: Target) -> bool:
    """Whether all judges of the target, made of what they are made of today, have seen its pictures."""
    same = attack.facts.get(_JUDGES, {}).items() >= _digests(target).items()
    return same and target.judges.keys() <= attack.beyond_pixels.keys()


def _digests(target: Target) -> dict[str, str]:
    return {name: judge.digest for name, judge in target.judges.items() if judge.digest}


def fit_and_score(
    target: Target,
    attack: PlugInSpec,
    *,
    threat: ThreatModel,
    pictures: int | None = None,
    observer: Observer | None = None,
) -> tuple[AttackResult, Inverter, dict[str, Tensor]]:
    """Fit an attack through a view of the target, score it on test pictures, and stand the controls beside it.

    Args:
        target: what is attacked.
        attack: registry name and parameters.
        threat: what is granted.
        pictures: the most test pictures to score, for attacks that search long for each; None for all.
        observer: hears of progress.

    Returns:
        The result, the fitted attack, and pictures and scores to store.
    """
    configured = configured_attack(attack)
    key, listener = attack_key(attack, threat, target.seed, pictures), observer or Observer()
    started, places = time.monotonic(), target.places(pictures)
    inverter, queries = target.fit(configured, threat, _Progress(listener))
    listener.stop()
    drawn, scores = target.score(inverter, threat, places, listener)
    metrics, controls = summarise(scores, target.rng), target.controls(threat, places)
    held = target.auxiliary(threat)
    result = AttackResult(
        key=key,
        attack=attack,
        threat=threat.to_json(),
        seed=target.seed,
        metrics=metrics,
        beyond_pixels=judge_all(target, drawn, places),
        controls={name: item for name, item in controls.items() if name != attack.name},
        beats_controls=all(
            metrics["mse"].mean < item["mse"].mean for name, item in controls.items() if name != attack.name
        ),
        converged=inverter.facts.get("converged"),
        facts={
            **inverter.facts,
            "queries": queries or int(inverter.facts.get("queries", 0)),
            "auxiliary_pictures": 0 if held is None else len(held),
            **({_PICTURES: target.auxiliary_digest(threat)} if threat.is_foreign else {}),
            **({_JUDGES: digests} if (digests := _digests(target)) else {}),
        },
        samples=f"samples/{key}.safetensors",
        elapsed_s=time.monotonic() - started,
    )
    return result, inverter, _samples(drawn, scores, target.test, places)


def configured_attack(attack: PlugInSpec) -> Attack:
    """The attack of this name and these parameters.

    Raises:
        SpecError: it is unknown, or draws no pictures.
    """
    configured = build(ATTACKS.load(attack.name), attack.params, f"attack '{attack.name}'")
    if not isinstance(configured, Attack):
        raise SpecError(
            f"expected an attack that rebuilds pictures, got '{attack.name}': call reidentify of "
            "splitveil.experiments.reidentification or infer_attribute of splitveil.experiments.attributes"
        )
    return configured


def attack_key(attack: PlugInSpec, threat: ThreatModel, seed: int, pictures: int | None = None) -> str:
    """What an attack's result is filed under: its name and a digest of all that decides it."""
    scored = [] if pictures is None else [pictures]
    text = json.dumps([attack.model_dump(mode="json"), threat.to_json(), seed, *scored], sort_keys=True)
    return f"{attack.name}-{sha256(text.encode()).hexdigest()[:10]}"


def _samples(pictures: Tensor, scores: Mapping[str, Tensor], test: Pictures, places: Tensor) -> dict[str, Tensor]:
    """Pictures that a report shows: the first of the split, the same in every run, and the best recovered ones."""
    shown = torch.arange(min(SHOWN, len(places)))
    worst = scores["mse"].argsort()[:_WORST]
    tensors: dict[str, Tensor] = {name: values.float() for name, values in scores.items()}
    for prefix, indices in (("", shown), ("worst_", worst)):
        originals, labels = test.get(places[indices])
        tensors[f"{prefix}indices"] = places[indices]
        tensors[f"{prefix}labels"] = labels
        tensors[f"{prefix}originals"] = _bytes(originals)
        tensors[f"{prefix}reconstructions"] = _bytes(pictures[indices.to(pictures.device)])
    tensors["worst_mse"] = scores["mse"][worst].float()
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def _write(
    record: RunRecord, result: AttackResult, attack: PlugInSpec, inverter: Inverter, samples: Mapping[str, Tensor]
) -> None:
    write_with(record.path / result.samples, lambda temporary: save_file(dict(samples), temporary))
    if isinstance(inverter, FittedInverter):  # a search has no state of its own, and holds the attacked network
        save_inverter(record.path / "attackers" / f"{result.key}.safetensors", inverter, attack.model_dump(mode="json"))
    record.add_attack(result)


class _Progress:
    """An attack's history rows as steps of an observer; each network that it trains is a job."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def __call__(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == 0:
            self.observer.stop()
            self.observer.start("attack", int(row["epochs"]), 0)
        self.observer.advance(f"error {row['val_mse']:.5f}" if "val_mse" in row else "")
