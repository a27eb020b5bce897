"""Audits of somebody else's encoder: a file, an address, a function, or stored pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from splitveil.attacks.loading import load_subject
from splitveil.attacks.pairs import PairsSubject
from splitveil.attacks.subjects import ModelSubject
from splitveil.audit.record import FILE, AuditRecord
from splitveil.audit.run import Observe, audit_target, seat_judges
from splitveil.audit.suites import load_suite
from splitveil.contracts import NoiseSource, Subject
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.data.sources import guess_source
from splitveil.data.splits import Splits
from splitveil.data.tables import join_tables
from splitveil.errors import OutputError, ThreatModelError, UsageError
from splitveil.experiments.auxiliary import auxiliary_pictures
from splitveil.experiments.recipes import Recipe
from splitveil.experiments.target import Target
from splitveil.experiments.training import load_data_spec
from splitveil.files import check_room, others, write_with
from splitveil.rng import Rng
from splitveil.specs import DataSpec
from splitveil.threats import ThreatModel
from splitveil.training.observer import Observer

__all__ = ["FRESH_RELEASES", "audit_encoder"]

FRESH_RELEASES = 4
"""Releases of one picture that the attack on a stranger's encoder sees: its noise, if it has any, is not known."""

_TEST_SHARE = 0.2


def audit_encoder(
    text: str,
    out: Path,
    *,
    recipe: Recipe,
    effort: int = 1,
    data: str | None = None,
    suite: str = "standard",
    threat: ThreatModel | None = None,
    limit: int | None = None,
    seed: int = 0,
    observe: Observe = lambda _: Observer(),
    after: Callable[[Target], None] = lambda _: None,
    lpips_weights: Path | None = None,
) -> AuditRecord:
    """Audit an encoder that is not ours, and write ``audit.json`` and the pictures into a folder.

    All pictures but those that are scored are the attacker's, since nobody says which ones the encoder has seen. No
    twin without a defense stands beside it: a plain encoder of the same payload, trained here, does.

    Args:
        text: a bundle's folder, ``encoder.onnx``, ``pairs.safetensors``, ``http(s)://…`` or ``package.module:factory``.
        out: folder; new, empty, or an earlier audit's.
        recipe: the scale of the attacks.
        effort: see `audit_run`.
        data: pictures to attack with, as in `splitveil.train`; stored pairs bring their own.
        suite: ``quick``, ``standard`` or ``strong``.
        threat: what attackers are granted; what the subject cannot offer is left out. By default all of it, and four
            releases of each picture.
        limit: the most pictures to use.
        seed: of attacks and splits.
        observe: watches.
        after: is handed what was attacked, once the audit is written: to replay its releases, for one.
        lpips_weights: a file of weights to measure LPIPS with.

    Raises:
        UsageError: pictures are missing, or come with the pairs already.
        OutputError: `out` holds something else.
    """
    _check_folder(out, text)
    if text.endswith(".safetensors") and threat is not None and threat.auxiliary in ("shifted", "train"):
        raise UsageError(
            f"expected auxiliary 'same' or 'none' with stored pairs, got '{threat.auxiliary}': they bring the "
            "attacker's pictures with them; store pairs of those that it should have"
        )
    if text.endswith(".safetensors") and threat is not None and threat.observations > 1:
        raise ThreatModelError(
            f"expected observations = 1 with stored pairs, got {threat.observations}: they hold one release of each "
            "picture; combine several before they are stored"
        )
    subject, test, auxiliary, classes = _opened(text, data, limit, seed)
    counter = _Counter(subject)
    queried = "query" in subject.offers
    threat = threat or ThreatModel(frozenset(subject.offers), observations=FRESH_RELEASES if queried else 1)
    threat = replace(threat, grants=threat.grants & subject.offers)
    recipe = recipe.with_effort(effort)
    plan = load_suite(suite, recipe).granted(threat, recipe).reading(subject.release_spec)
    target = Target(subject, test=test, auxiliary=auxiliary, seed=seed)
    ceiling = seat_judges(target, auxiliary(ThreatModel(frozenset())), classes, lpips_weights)
    found, kept = audit_target(target, plan, threat, subject=text, adaptive=(recipe.attack.name,), observe=observe)
    found = found.model_copy(update={"queries": counter.count, "recognition_ceiling": ceiling})
    out.mkdir(parents=True, exist_ok=True)
    for attack in found.attacks:
        _store(out / attack.samples, kept[attack.key])
    found.write(out)
    after(target)
    return found


class _Counter:
    """Counts the releases of a subject: those that are scored, and those of controls, cost too."""

    def __init__(self, subject: Subject) -> None:
        self.count, self._release = 0, subject.release
        setattr(subject, "release", self._counted)  # noqa: B010 - the subject stays what it is for who asks its class
        if isinstance(subject, ModelSubject):
            setattr(subject, "release_each", self._each)  # noqa: B010

    def _counted(self, x: Tensor, noise: NoiseSource) -> Tensor:
        self.count += len(x)
        return self._release(x, noise)

    def _each(self, x: Tensor, noises: Sequence[NoiseSource]) -> list[Tensor]:
        return [self._counted(x, noise) for noise in noises]


def _opened(
    text: str, data: str | None, limit: int | None, seed: int
) -> tuple[Subject, Pictures, Callable[[ThreatModel], Pictures | None], int]:
    """The subject, the pictures that it is scored on, the attacker's, and how many classes they have, 0 if none."""
    if text.endswith(".safetensors"):
        if data is not None or limit is not None:
            raise UsageError(
                "expected no --data and no --limit beside stored pairs, got some: they bring their pictures"
            )
        stored = PairsSubject(text)
        known, held_out = stored.pictures.split(_TEST_SHARE, Rng(seed).child("pairs"))
        classes = int(known.labels.max()) + 1 if "labels" in stored.offers else 0
        return stored, held_out, lambda threat: None if threat.auxiliary == "none" else known, classes
    if data is None:
        raise UsageError(f"expected pictures to attack '{text}' with, got none: pass --data digits, or a folder")
    source, path = guess_source(data)
    loaded = load_data_spec(DataSpec(source=source, path=str(path) if path else None, limit=limit, seed=seed))
    splits = loaded.splits
    pool = _all_but_scored(splits)
    subject = load_subject(text, loaded.source.input_shape)
    attackers = auxiliary_pictures(pool, "cpu", Rng(seed).child("auxiliary"))
    return subject, hold(splits.test), attackers, loaded.source.classes


def _all_but_scored(splits: Splits) -> Splits:
    """Splits whose auxiliary pictures are all that are not scored."""
    tables = (splits.train, splits.val, splits.aux)
    pool = join_tables(tables)
    return replace(splits, aux=pool)


def _check_folder(out: Path, text: str) -> None:
    """Raise `OutputError` unless `out` is free, or holds an earlier audit of the same encoder."""
    if (out / "spec.json").is_file():
        raise OutputError(f"expected a folder for the audit at '{out}', got a run: choose another --out")
    check_room(out, "audit", [] if (out / FILE).is_file() else others(out, FILE))
    if (out / FILE).is_file() and (held := AuditRecord.read(out).subject) != text:
        raise OutputError(
            f"expected an earlier audit of '{text}' at '{out}', got one of '{held}': choose another --out"
        )


def _store(path: Path, samples: Mapping[str, Tensor]) -> None:
    write_with(path, lambda temporary: save_file(dict(samples), temporary))
