"""How the runs of the page were made, and the commands that make all of it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splitveil.audit.people_record import PEOPLE_FILE, PeopleRecord
from splitveil.audit.record import FILE as AUDIT_FILE
from splitveil.audit.record import AuditRecord
from splitveil.certificates.card import FILE as CARD_FILE
from splitveil.certificates.card import Card
from splitveil.experiments.recipes import load_recipe
from splitveil.registry import MODELS, RECIPES
from splitveil.report.runs import Run
from splitveil.report.wording import percent, scalar, score_word
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

__all__ = ["Provenance", "provenance", "report_command"]

_PRESETS = ("white_box", "black_box", "pairs_only", "query_free")
_USUAL = {"auxiliary": "same", "observations": 1, "duplicates": "exact", "shift": None}


@dataclass(frozen=True, slots=True)
class Provenance:
    """How one run was made and how to make it again."""

    label: str
    colour: int
    commands: tuple[str, ...]
    spec: str
    environment: tuple[tuple[str, str], ...]


def provenance(run: Run) -> Provenance:
    """Its spec, its environment and its commands."""
    training = run.spec.training
    rows = [("run", run.record.name), ("recipe", f"{training.epochs} epochs, seed {run.spec.seed}")]
    if run.evaluation:
        utility, word = run.evaluation.score.result, score_word([run.evaluation.score.name])
        rows.append((word, f"{percent(utility.mean)} % of {scalar(utility.n)} test pictures"))
    return Provenance(
        label=run.label,
        colour=run.colour,
        commands=tuple(_commands(run)),
        spec=json.dumps(run.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
        environment=(*rows, *((str(key), scalar(value)) for key, value in run.environment.items())),
    )


def report_command(runs: Sequence[Run]) -> str:
    """The one that draws the page from the runs made again."""
    return " ".join(["splitveil report", *(_again(run) for run in runs)])


def _again(run: Run) -> str:
    return shlex.quote(f"{run.record.name}-again")


def _commands(run: Run) -> list[str]:
    trust = _trust(run.spec.model.factory)
    spec_file, new = shlex.quote(f"{run.record.name}/spec.json"), _again(run)
    found = [f"splitveil train --spec {spec_file} --out {new}{trust}"]
    audited = _audit(run)
    held = {attack.key for attack in audited.attacks} if audited else set[str]()
    for attack in run.attacks:
        preset = None if _unusual(attack.threat) else _preset(attack.threat)
        if attack.key not in held and preset is not None:
            options = "".join(f" -p {shlex.quote(_option(key, value))}" for key, value in attack.attack.params.items())
            found.append(
                f"splitveil attack {new} --attack {shlex.quote(attack.attack.name)}{_recipe(attack.attack)}{options}"
                f"{preset}{_seed(attack.seed)}{trust}"
            )
    if audited:
        people = " --people" if (run.record.path / PEOPLE_FILE).is_file() else ""
        threat, suite = _preset(audited.threat), shlex.quote(audited.suite)
        told = "" if threat is not None else "  # of the white box; no preset grants what this audit was granted"
        found.append(f"splitveil audit {new} --suite {suite}{threat or ''}{people}{_seed(audited.seed)}{trust}{told}")
    elif (run.record.path / PEOPLE_FILE).is_file():
        found.append(f"splitveil audit {new} --people{_seed(PeopleRecord.read(run.record.path).seed)}{trust}")
    if (run.record.path / CARD_FILE).is_file():
        card = Card.read(run.record.path)
        seen = f" --observations {card.observations}" if card.observations > 1 else ""
        found.append(f"splitveil certify {new}{seen}{_seed(card.seed)}{trust}")
    return found


def _audit(run: Run) -> AuditRecord | None:
    return AuditRecord.read(run.record.path) if (run.record.path / AUDIT_FILE).is_file() else None


def _unusual(threat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: threat[key] for key, usual in _USUAL.items() if key in threat and threat[key] != usual}


def _preset(threat: Mapping[str, Any]) -> str | None:
    """Options of ``audit`` that say a threat model; None where it has none for it."""
    grants = frozenset(map(str, threat.get("grants", ())))
    name = next((name for name in _PRESETS if ThreatModel.preset(name).grants == grants), None)
    if name is None or threat.get("query_budget") is not None:
        return None
    told = "" if name == "white_box" else f" --threat {name}"
    return told + "".join(f" --{key} {shlex.quote(str(value))}" for key, value in sorted(_unusual(threat).items()))


def _recipe(attack: PlugInSpec) -> str:
    """The option without which the command takes from a recipe what the parameters leave to the attack's defaults."""
    plans = [load_recipe(entry.name).attack for entry in RECIPES]
    taken = any(plan.name == attack.name and not plan.params.keys() <= attack.params.keys() for plan in plans)
    return " --recipe none" if taken else ""


def _option(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _seed(seed: int) -> str:
    return f" --seed {seed}" if seed else ""


def _trust(factory: str | None) -> str:
    """The option without which a model from outside is not loaded."""
    if factory is None:
        return " --model package.module:function"
    foreign = factory not in {entry.target for entry in MODELS}
    return f" --model {shlex.quote(factory)}" if foreign else ""
