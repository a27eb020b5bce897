"""What a passport says: gathered from a run, its records and its model."""

from __future__ import annotations

import hashlib
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from splitveil import __version__
from splitveil.audit.record import FILE as AUDIT
from splitveil.audit.record import AuditRecord
from splitveil.certificates.card import FILE as CARD
from splitveil.certificates.card import Card
from splitveil.codecs import Float32Codec, QuantisedCodec
from splitveil.errors import ContractError, SpecError, UsageError
from splitveil.records import RunRecord
from splitveil.split_model import SplitModel
from splitveil_edge.passport import CLOUD, EDGE, FINISH

__all__ = ["codec_facts", "file_facts", "model_facts", "passport_name", "release_range", "run_facts", "validity"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_DAYS = 36_500


def passport_name(name: str | None, record: RunRecord) -> str:
    """The model's name for servers: as given, else the run's with other characters as ``-``.

    Raises:
        UsageError: a name that no server would know it by.
    """
    if name is None:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", record.name)[:64].strip("-") or "model"
    if not _NAME.fullmatch(name):
        raise UsageError(f"expected --name of 1 to 64 letters, digits, '_', '.' and '-', got {name!r}")
    return name


def validity(expires_days: float | None, now: datetime | None = None) -> dict[str, str | None]:
    """``{created, expires}``, ISO 8601 in UTC.

    Raises:
        UsageError: days that are not above 0.

    Example:
        >>> validity(1, datetime(2030, 1, 1, tzinfo=UTC))
        {'created': '2030-01-01T00:00:00Z', 'expires': '2030-01-02T00:00:00Z'}
    """
    if expires_days is not None and not 0 < expires_days <= _LONGEST_DAYS:
        raise UsageError(f"expected --expires-days above 0 and at most {_LONGEST_DAYS}, got {expires_days}")
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    ends = None if expires_days is None else moment + timedelta(days=expires_days)
    return {"created": _stamp(moment), "expires": None if ends is None else _stamp(ends.replace(microsecond=0))}


def model_facts(model: SplitModel, reply: tuple[int, ...], output: tuple[int, ...]) -> dict[str, Any]:
    """Shapes, noise and codec.

    Args:
        model: that is exported.
        reply: shape of one reply.
        output: shape of one output.
    """
    return {
        "input_shape": list(model.input_shape),
        "feature": model.feature_spec.to_json(),
        "release": model.release_spec.to_json(),
        "reply": {"shape": list(reply)},
        "output": {"shape": list(output)},
        "noise": [{"name": spec.name, "shape": list(spec.shape), "law": spec.law} for spec in model.noise_specs],
        "codec": codec_facts(model),
    }


def codec_facts(model: SplitModel) -> dict[str, Any]:
    """The codec as a passport names it.

    Raises:
        ContractError: one that devices do not know.
    """
    codec = model.codec
    if isinstance(codec, QuantisedCodec):
        return {"name": "quantise", "bits": codec.bits, "low": codec.low, "high": codec.high}
    if not isinstance(codec, Float32Codec):
        raise ContractError(f"expected a Float32Codec or a QuantisedCodec, got {type(codec).__name__}: use one of them")
    return {"name": "float32"}


def run_facts(record: RunRecord) -> dict[str, Any]:
    """Defense, class names, data digest, certificates and the audit's summary.

    Raises:
        SpecError: an attack beats a certificate of this run, so that its card is not true; or its audit is of others.
    """
    evaluation = record.evaluation
    card = Card.read(record.path) if (record.path / CARD).is_file() else None
    if card is not None and card.status == "violated":
        raise SpecError(
            f"expected a run whose certificates hold, got '{record.path}', where an attack beats one: find the "
            "assumption that fails and certify it again"
        )
    audited = AuditRecord.read(record.path) if (record.path / AUDIT).is_file() else None
    if audited is not None and not _is_of(audited, record):
        raise SpecError(
            f"expected the audit of '{record.path}' in it, got one of '{audited.subject}', with attacks that this run "
            f"has not seen: run  splitveil audit {record.path}  again"
        )
    spec = record.spec
    return {
        "splitveil": __version__,
        "defense": {"name": spec.defense.name, "params": spec.defense.params},
        "class_names": evaluation.class_names if evaluation else [],
        "data": {"digest": spec.data.digest},
        # the path of a run is the business of the machine that it lies on
        "certificates": None if card is None else {**card.model_dump(mode="json"), "run": record.name},
        "audit": None if audited is None else _summary(audited),
    }


def file_facts(folder: Path) -> dict[str, Any]:
    """Digest and size of every file of a bundle, by name."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name.removesuffix(".data") in (EDGE, FINISH, CLOUD):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            found[file.name] = {"sha256": digest, "bytes": file.stat().st_size}
    return found


def release_range(low: float, high: float) -> dict[str, float]:
    """What a server may refuse: the values that were seen, and as much again on either side.

    Noise has no end, but no honest release in the life of a device lies twice as far out as the farthest of many.
    """
    span = max(high - low, 1e-3)
    return {"low": float(math.floor((low - span) * 1e3) / 1e3), "high": float(math.ceil((high + span) * 1e3) / 1e3)}


def _is_of(audited: AuditRecord, record: RunRecord) -> bool:
    """Whether its attacks are those of the run, score by score; folders are moved and renamed."""
    seen = {attack.key: attack.metrics for attack in record.attacks}
    return all(seen.get(attack.key) == attack.metrics for attack in audited.attacks)


def _summary(audited: AuditRecord) -> dict[str, Any]:
    worst = {
        name: {
            **item.result.model_dump(include={"mean", "low", "high", "level", "n", "unit", "safer"}),
            "attack": audited.attack(item.attack).attack.name,
        }
        for name, item in audited.worst.items()
    }
    return {
        "suite": audited.suite,
        "status": audited.status,
        "threat": audited.threat,
        "adaptive": audited.adaptive,
        "seed": audited.seed,
        "pictures": audited.pictures,
        "attacks": len(audited.attacks),
        "worst": worst,
        "controls": {control.name: control.state for control in audited.controls},
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
