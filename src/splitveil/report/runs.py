"""What a report knows of each run: its record read once, a label that is unique on the page, and a colour."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from splitveil.errors import InputError, MissingDataError, SpecError
from splitveil.records import AttackResult, Evaluation, MetricResult, RunRecord
from splitveil.specs import RunSpec, parse

__all__ = ["METRIC_NAMES", "UNDEFENDED", "Finding", "Run", "check_threats", "load_runs"]

UNDEFENDED = "none"
"""The defense whose run is the control of all others."""

METRIC_NAMES = ("mse", "psnr", "ssim")

_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """The score of the attack that does most damage by one metric."""

    attack: AttackResult
    result: MetricResult


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the report sees it; what is missing is None or empty, with a note that says so.

    Args:
        label: unique on the page.
        colour: 0 for an undefended run, else 1 to 8.
        epochs: the event log's epochs, in order.
        notes: what is missing or broken.
        attack_names: by key.
    """

    record: RunRecord
    spec: RunSpec
    label: str
    colour: int
    evaluation: Evaluation | None
    attacks: tuple[AttackResult, ...]
    environment: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    attack_names: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, attack: AttackResult) -> str:
        """What the page calls an attack: its name, and what tells it from others of that name."""
        return self.attack_names.get(attack.key, attack.key)

    @property
    def undefended(self) -> bool:
        """Whether this run is the control."""
        return self.spec.defense.name == UNDEFENDED

    @property
    def worst(self) -> dict[str, Finding]:
        """Per metric, the attack with the least safe mean.

        An attack that does not beat its controls speaks only where no attack does: it is not the strongest one.
        """
        sound = [attack for attack in self.attacks if attack.beats_controls] or list(self.attacks)
        found = {}
        for name in METRIC_NAMES:
            scored = [Finding(attack, attack.metrics[name]) for attack in sound if name in attack.metrics]
            if scored:
                found[name] = min(scored, key=lambda item: _safety(item.result))
        return found

    @property
    def headline(self) -> AttackResult | None:
        """The attack whose pictures are shown: the one with the worst PSNR, else with the worst of another metric."""
        worst = self.worst
        for name in ("psnr", "mse", "ssim"):
            if name in worst:
                return worst[name].attack
        return self.attacks[0] if self.attacks else None


def _safety(result: MetricResult) -> float:
    return result.mean if result.safer == "higher" else -result.mean


def load_runs(records: Sequence[RunRecord]) -> list[Run]:
    """Read the records: undefended runs first, then from the least to the most private, unattacked runs last.

    Raises:
        InputError: there is no run, or none of them has anything to show.
        SpecError: a record's file has another form.
    """
    if not records:
        raise InputError("expected at least one run to report on, got none: pass the folders of trained runs")
    runs = [_read(record) for record in records]
    if not any(run.evaluation or run.attacks or run.epochs for run in runs):
        names = ", ".join(f"'{run.record.name}'" for run in runs)
        raise InputError(f"expected a run with epochs, an evaluation or an attack, got none in {names}: train one")
    labels, attack_names = _labels(runs), _attack_names([attack for run in runs for attack in run.attacks])
    ordered = sorted(
        (replace(run, label=label, attack_names=attack_names) for run, label in zip(runs, labels, strict=True)),
        key=_place,
    )
    defended = [run.label for run in ordered if not run.undefended]
    return [replace(run, colour=0 if run.undefended else 1 + defended.index(run.label) % _COLOURS) for run in ordered]


class _Threat(BaseModel):
    """What the page reads of a recorded threat model; names that are not known are text to it."""

    model_config = ConfigDict(strict=True)

    grants: list[str] = Field(default_factory=list)
    knows_mechanism: bool = True
    auxiliary: str = "same"
    observations: int = Field(default=1, ge=1)
    query_budget: int | None = None
    duplicates: str = "exact"
    shift: str | None = None


def check_threats(threats: Iterable[Mapping[str, Any]], source: str) -> None:
    """See that what attackers were granted has the form that the page reads.

    Args:
        threats: as recorded.
        source: the file that they are in, for the message.

    Raises:
        SpecError: a value has another type, or cannot be.
    """
    for threat in threats:
        try:
            parse(_Threat, dict(threat), f"threat model in '{source}'")
        except SpecError as error:
            raise SpecError(f"{error}; restore the file, or remove it and attack again") from error


def _read(record: RunRecord) -> Run:
    notes = []
    try:
        environment = record.environment
    except (MissingDataError, InputError):
        environment = {}
        notes.append("its environment was not recorded")
    try:
        epochs = tuple(event for event in record.events() if event.get("event") == "epoch")
    except (InputError, ValueError, AttributeError):
        epochs = ()
        notes.append("its event log cannot be read")
    evaluation, attacks = record.evaluation, tuple(record.attacks)
    check_threats((attack.threat for attack in attacks), str(record.path / "attacks.json"))
    if evaluation is None:
        notes.append("not evaluated yet")
    if not attacks:
        notes.append("not attacked yet")
    return Run(record, record.spec, record.name, 0, evaluation, attacks, environment, epochs, tuple(notes))


def _place(run: Run) -> tuple[int, int, float, str]:
    psnr = run.worst.get("psnr")
    return (0 if run.undefended else 1, 1 if psnr is None else 0, -psnr.result.mean if psnr else 0.0, run.label)


def _labels(runs: Sequence[Run]) -> list[str]:
    """The defense's name; where several share it also what tells them apart, and the folder if nothing does."""
    labels = [run.spec.defense.name for run in runs]
    tell_apart: tuple[Callable[[Run, list[Run]], str], ...] = (
        _differing_params,
        lambda run, _: (run.spec.model.factory or "").rpartition(":")[2],
        lambda run, _: run.spec.data.source,
        lambda run, _: f"seed {run.spec.seed}",
        lambda run, _: run.record.name,
        lambda run, _: str(run.record.path),
    )
    for describe in tell_apart:
        labels = _extend(runs, labels, describe)
    return [f"{label} #{index + 1}" if labels.count(label) > 1 else label for index, label in enumerate(labels)]


def _extend(runs: Sequence[Run], labels: list[str], describe: Callable[[Run, list[Run]], str]) -> list[str]:
    counts = Counter(labels)
    extended = []
    for run, label in zip(runs, labels, strict=True):
        peers = [peer for peer, other in zip(runs, labels, strict=True) if other == label]
        told = {describe(peer, peers) for peer in peers}
        extra = describe(run, peers) if counts[label] > 1 and len(told) > 1 else ""
        extended.append(f"{label} {extra}" if extra else label)
    return extended


def _differing_params(run: Run, peers: list[Run]) -> str:
    keys = sorted({key for peer in peers for key in peer.spec.defense.params})
    shown = []
    for key in keys:
        values = {json.dumps(peer.spec.defense.params.get(key), sort_keys=True) for peer in peers}
        if len(values) > 1 and key in run.spec.defense.params:
            shown.append(f"{key}={run.spec.defense.params[key]}")
    return " ".join(shown)


def _attack_names(attacks: Sequence[AttackResult]) -> dict[str, str]:
    """By key: the attack's name; where attacks of one name differ also their parameters, threat and seed that do."""
    names = {}
    for attack in attacks:
        peers = {peer.key: _settings(peer) for peer in attacks if peer.attack.name == attack.attack.name}
        mine = peers[attack.key]
        told = [
            f"{key.rpartition('.')[2]}={json.loads(value)}"
            for key, value in mine.items()
            if len({peer.get(key) for peer in peers.values()}) > 1
        ]
        names[attack.key] = f"{attack.attack.name} ({', '.join(told)})" if told else attack.attack.name
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}


def _settings(attack: AttackResult) -> dict[str, str]:
    values = {
        "seed": attack.seed,
        **{f"params.{key}": value for key, value in attack.attack.params.items()},
        **{f"threat.{key}": value for key, value in attack.threat.items()},
    }
    return {key: json.dumps(value, sort_keys=True) for key, value in sorted(values.items())}
