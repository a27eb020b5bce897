"""What a run's mechanism needs so that something cannot happen: targets in words, for a finished run."""

from __future__ import annotations

from dataclasses import asdict, replace

from splitveil.bounds import identification_information, utility_floor
from splitveil.bounds.entropy import gaussian_profile
from splitveil.certificates.harm import largest_share_limit
from splitveil.certificates.information import CONFIDENCE
from splitveil.certificates.run import Material, gather, picture_coordinates
from splitveil.certificates.targets import (
    information_for_error,
    noise_for_information,
    noise_of_one_size,
)
from splitveil.errors import SpecError
from splitveil.records import RunRecord
from splitveil.rng import Rng
from splitveil.specs import Frozen
from splitveil.training.observer import Observer

__all__ = ["NoiseRecord", "TargetRecord", "noise_for_target"]


class NoiseRecord(Frozen):
    """A `splitveil.certificates.targets.Needed` as it is written."""

    method: str
    noise_std: float | None
    information_nats: float
    holds_for: str
    keeps: bool


class TargetRecord(Frozen):
    """The noise that a target needs.

    Args:
        run: the folder of the run.
        target: in words.
        information_nats: the most that a release may tell.
        rests_on: what was estimated on the way, None where nothing was.
        utility_floor_nats: what the accuracy of the run needs; a target below it cannot be had at this accuracy. None
            where the task is another than classification.
        noise_now: the standard deviation that the run has, a mean over dimensions.
        observations: releases of one picture that the attacker holds.
        needed: by method.
        noise_for_training: the noise under which ``capacity`` holds for a model of the same features whose defense
            clips them to [0, 1], as `cem` does, whatever its weights; None where no noise does.
    """

    run: str
    target: str
    information_nats: float
    rests_on: str | None
    utility_floor_nats: float | None
    noise_now: float
    observations: int
    needed: tuple[NoiseRecord, ...]
    noise_for_training: float | None


def noise_for_target(
    record: RunRecord,
    *,
    nats: float | None = None,
    identification: float | None = None,
    among: int | None = None,
    psnr_db: float | None = None,
    observations: int = 1,
    seed: int = 0,
    device: str | None = None,
    trusted: str | None = None,
    observer: Observer | None = None,
) -> TargetRecord:
    """The noise under which a release tells so little that a target is met; give one target.

    Args:
        record: a finished run, whose defense clips before its noise.
        nats: the information in a release.
        identification: how often an attacker may be right who chooses ...
        among: ... one of so many.
        psnr_db: -10 log10 of the mean squared error, over pictures, that no reconstruction may fall below; a mean of
            the PSNR of each may lie above it. It rests on the entropy of pictures, which is an estimate.
        observations: fresh releases of one picture that the attacker holds.
        seed: of what is drawn.
        device: see `train_run`.
        trusted: a model factory outside splitveil that the user named.
        observer: hears of loading.

    Raises:
        SpecError: no target or several, or one that no noise reaches.
    """
    given = [value for value in (nats, identification, psnr_db) if value is not None]
    if len(given) != 1:
        raise SpecError("expected one target, got none or several: give nats, identification or psnr_db")
    [allowed], target, rests_on = given, f"at most {given[0]:g} nats", None
    if identification is not None:
        if among is None:
            raise SpecError("expected a number of pictures to choose among, got none: add --among 10000")
        allowed = identification_information(identification, among)
        target = f"right {identification:.3g} among {among}"
    rng = Rng(seed).child("certify")
    material = gather(record, rng.child("information"), device=device, trusted=trusted, observer=observer)
    channel, std, _ = noise_of_one_size(material.channel)
    if psnr_db is not None:
        profile = gaussian_profile(picture_coordinates(material, rng.child("entropy"))[2])
        allowed = information_for_error(10 ** (-psnr_db / 10), profile)
        target = f"a mean squared error of at least {10 ** (-psnr_db / 10):.3g} (PSNR {psnr_db:g} dB)"
        rests_on = f"entropy of pictures: {profile.name}, {profile.rests_on}"
    accuracy = material.evaluation.accuracy
    most = largest_share_limit(material.test.labels, material.classes, CONFIDENCE)
    [unit] = noise_for_information(replace(channel, box=(0.0, 1.0), ball=None), allowed, observations=observations)
    return TargetRecord(
        run=str(record.path),
        target=target,
        information_nats=allowed,
        rests_on=rests_on,
        utility_floor_nats=None if accuracy is None else utility_floor(accuracy.low, material.classes, most),
        noise_now=float(std.mean()),
        observations=observations,
        needed=_needed(material, allowed, target, observations),
        noise_for_training=unit.noise_std,
    )


def _needed(material: Material, allowed: float, target: str, observations: int) -> tuple[NoiseRecord, ...]:
    found = noise_for_information(
        material.channel, allowed, material.bounds, material.held_out, observations=observations
    )
    if all(item.noise_std is None for item in found):
        best = min(item.information_nats for item in found)
        raise SpecError(
            f"expected a target that some noise reaches, got {allowed:.3g} nats ({target}): the best that "
            f"{len(material.unseen)} held-out pictures can show is {best:.3g} nats"
        )
    return tuple(NoiseRecord(**asdict(item)) for item in found)
