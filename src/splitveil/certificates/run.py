"""The card of a run: all bounds that hold for it, and its attacks against them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from splitveil.bounds import Certificate, Statement, demonstrated_information
from splitveil.bounds.entropy import (
    Array,
    PrincipalAxes,
    dither,
    gaussian_profile,
    mixture_profile,
    neighbour_profile,
)
from splitveil.certificates.card import Card
from splitveil.certificates.channel import Channel, Features
from splitveil.certificates.harm import (
    accuracy_limit,
    certified_error,
    error_estimates,
    identification_certificates,
    largest_share_limit,
    utility_certificate,
)
from splitveil.certificates.information import FittedBound, fit_bounds, information_certificates, tightest
from splitveil.certificates.privacy import privacy_certificates
from splitveil.certificates.recording import record_of
from splitveil.certificates.sandwich import Reached, build_sandwich, reached_by_attacks
from splitveil.certificates.slopes import SlopeSettings, slope_estimates
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.data.rows import in_memory
from splitveil.data.tables import ImageTable, join_tables
from splitveil.errors import SpecError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.environment import pick_device
from splitveil.experiments.storage import task_scores
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.records import Evaluation, RunRecord
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.observer import Observer

__all__ = ["GALLERIES", "Material", "certify_run", "gather", "picture_coordinates"]

GALLERIES = (10, 100, 10_000)
"""How many pictures an attacker chooses among, unless told otherwise."""

_UTILITY_CONFIDENCE = 0.999
_MOST_STREAMED = 50_000  # pictures of a table in a file whose entropy is estimated
_NO_CHANNEL = "the mechanism adds no Gaussian noise, so that only the length of the message bounds the information"
_NOT_CLASSES = "the task is not to tell classes apart, so that no accuracy says what information it needs"
_MOST_VALUES = (
    16_384  # of a picture whose principal axes are looked for: their matrix takes the square, the time the cube
)
_TOO_LARGE = (
    f"pictures have more than {_MOST_VALUES:,} values: an estimate of their entropy rests on all principal axes"
)
_NO_BOX = "the features are not clipped before the noise, or the noise depends on them: no bound on all features holds"


@dataclass(frozen=True)
class Material:
    """What a card is computed from.

    Args:
        model: in evaluation mode.
        channel: None without Gaussian noise.
        bounds: fitted to features of the training pictures; none without a channel that is clipped.
        held_out: features of the attackers' and the test pictures, which nothing was trained or chosen on.
        test: pictures.
        train: pictures.
        unseen: pictures of `held_out`.
        classes: of the labels.
        evaluation: of the run.
    """

    model: SplitModel
    channel: Channel | None
    bounds: Sequence[FittedBound]
    held_out: Features | None
    test: Pictures
    train: Pictures
    unseen: Pictures
    classes: int
    evaluation: Evaluation


def gather(
    record: RunRecord,
    rng: Rng,
    *,
    device: str | None = None,
    trusted: str | None = None,
    observer: Observer | None = None,
    data: LoadedData | None = None,
) -> Material:
    """Load a finished run, compute its features, and fit mixtures to those of the training pictures.

    Raises:
        SpecError: the run has not finished.
    """
    evaluation = record.evaluation
    if evaluation is None or not record.finished:
        raise SpecError(f"expected a finished run in '{record.path}', got one in training: finish it first")
    chosen = pick_device(device)
    data = data or load_data_spec(record.spec.data, observer)
    model = load_model(record, data, device=chosen, trusted=trusted)
    train, test, unseen = (hold(table, chosen) for table in (data.splits.train, data.splits.test, _together(data)))
    channel = Channel.of(model, test)
    bounded = channel is not None and channel.std is not None and channel.width is not None
    return Material(
        model=model,
        channel=channel,
        bounds=fit_bounds(channel.features(train), data.source.classes, rng) if bounded and channel is not None else (),
        held_out=channel.features(unseen) if bounded and channel is not None else None,
        test=test,
        train=train,
        unseen=unseen,
        classes=data.source.classes,
        evaluation=evaluation,
    )


def _together(data: LoadedData) -> ImageTable:
    """The attackers' pictures and the test pictures: no training, and no selection, has seen them."""
    return join_tables((data.splits.aux, data.splits.test))


def certify_run(
    record: RunRecord,
    *,
    observations: int = 1,
    galleries: Sequence[int] = GALLERIES,
    slopes: SlopeSettings | None = None,
    entropy_nats: float | None = None,
    seed: int = 0,
    device: str | None = None,
    trusted: str | None = None,
    observer: Observer | None = None,
    data: LoadedData | None = None,
) -> Card:
    """Compute everything that can be certified or estimated about a finished run, and write ``certificates.json``.

    Args:
        record: the run.
        observations: fresh releases of one picture that the attacker holds.
        galleries: numbers of pictures that an attacker chooses among.
        slopes: settings of the Fisher family, None to leave it out: it learns a network.
        entropy_nats: a lower bound on the entropy of dithered pictures that the user vouches for.
        seed: of all that is drawn.
        device: see `train_run`.
        trusted: a model factory outside splitveil that the user named.
        observer: hears of loading.
        data: pictures that are loaded already.

    Raises:
        SpecError: the run has not finished.
    """
    started, rng = time.monotonic(), Rng(seed).child("certify")
    material = gather(record, rng.child("information"), device=device, trusted=trusted, observer=observer, data=data)
    skipped = _not_to_be_said(material)
    information = information_certificates(
        material.channel,
        material.evaluation.payload_bytes,
        material.bounds,
        material.held_out,
        observations=observations,
    )
    certificates: list[Statement] = [
        *information,
        *identification_certificates(information, _with_test(material, galleries)),
    ]
    if record.evaluation is not None and record.evaluation.accuracy is not None:
        certificates.append(_utility(record, material))
    else:
        skipped["utility_floor"] = _NOT_CLASSES
    certificates += privacy_certificates(material.model, material.channel, observations)
    source = tightest(information)
    d = math.prod(material.test.images.shape[1:])
    if entropy_nats is not None:
        certificates.append(certified_error(source, entropy_nats, d))
    estimates, left_out = _estimates(material, source, slopes, observations, rng)
    skipped |= left_out
    statements = tuple(record_of(item) for item in (*certificates, *estimates))
    reached = [*reached_by_attacks(record), *_demonstrated(material, observations, rng.child("demonstrated"))]
    sandwich = build_sandwich(statements, reached)
    violated = any(rung.violated and rung.kind == "certificate" for rung in sandwich)
    card = Card(
        run=str(record.path),
        observations=observations,
        seed=seed,
        statements=statements,
        sandwich=sandwich,
        skipped=skipped,
        status="violated" if violated else "held",
        elapsed_s=time.monotonic() - started,
    )
    card.write(record.path)
    return card


def _estimates(
    material: Material, source: Certificate, slopes: SlopeSettings | None, observations: int, rng: Rng
) -> tuple[list[Statement], dict[str, str]]:
    """What rests on the entropy of pictures and on their principal axes; and what cannot be said, and why."""
    if _is_too_large(material):
        return [], {"shannon, blocks" if slopes is None else "shannon, blocks, fisher, spectrum": _TOO_LARGE}
    axes, fitted, held_out = picture_coordinates(material, rng.child("entropy"))
    profiles = [
        gaussian_profile(held_out),
        mixture_profile(fitted, held_out, rng=rng.child("entropy", "mixture")),
        neighbour_profile(held_out),
    ]
    found: list[Statement] = [*error_estimates(source, profiles, rng.child("resamples"))]
    if slopes is None:
        return found, {}
    if material.channel is None:
        return found, {"fisher, spectrum": _NO_CHANNEL}
    found += slope_estimates(
        material.channel, material.train, material.unseen, axes, slopes,
        observations=observations, rng=rng.child("slopes"),
    )  # fmt: skip
    return found, {}


def _is_too_large(material: Material) -> bool:
    return math.prod(material.test.images.shape[1:]) > _MOST_VALUES


def _not_to_be_said(material: Material) -> dict[str, str]:
    if material.channel is None:
        return {"capacity, mixture, gaussian_channel": _NO_CHANNEL}
    return {} if material.bounds else {"capacity, mixture, gaussian_channel": _NO_BOX}


def _with_test(material: Material, galleries: Sequence[int]) -> list[int]:
    """The galleries, and that of all test pictures, where what is demonstrated can be held against the bound."""
    return sorted({*galleries, len(material.test)})


def _utility(record: RunRecord, material: Material) -> Certificate:
    right = task_scores(record.path).double()
    low, most = utility_limits(right, material)
    return utility_certificate(low, most, material.classes, _UTILITY_CONFIDENCE, len(right))


def utility_limits(right: torch.Tensor, material: Material) -> tuple[float, float]:
    """The lower limit of the accuracy, the upper limit of the most frequent class's share, together confident."""
    each = 1 - (1 - _UTILITY_CONFIDENCE) / 2
    low = accuracy_limit(round(float(right.sum())), len(right), each)
    return low, largest_share_limit(material.test.labels, material.classes, each)


def picture_coordinates(material: Material, rng: Rng) -> tuple[PrincipalAxes, Array, Array]:
    """The axes of the training pictures, and coordinates along them: of these pictures, and of those held out.

    Raises:
        SpecError: pictures of too many values.
    """
    if _is_too_large(material):
        raise SpecError(f"expected pictures of at most {_MOST_VALUES:,} values for their entropy, got larger ones")
    known = dither(in_memory(material.train.images, _MOST_STREAMED), rng.child("train"))
    axes = PrincipalAxes.fit(known)
    unseen = dither(in_memory(material.unseen.images, _MOST_STREAMED), rng.child("unseen"))
    return axes, axes.coordinates(known), axes.coordinates(unseen)


def _demonstrated(material: Material, observations: int, rng: Rng) -> list[Reached]:
    """What the best of all attackers demonstrates who is given the test pictures to choose among."""
    channel = material.channel
    if channel is None:
        return []
    means, variances = list[torch.Tensor](), list[torch.Tensor]()
    with torch.no_grad():
        for x, _ in material.test.batches(512):
            mean, std = channel.moments(x)
            means.append(mean.double())
            variances.append(std.double().square().expand(mean.shape) / observations)
    centre, spread = torch.cat(means), torch.cat(variances)
    noise = torch.randn(centre.shape, generator=rng.generator(), dtype=torch.float64).to(centre.device)
    nats, found = demonstrated_information(centre, spread, centre + spread.sqrt() * noise)
    told = "whoever knows the channel, among the test pictures"
    return [
        Reached(told, "information", nats.cpu().numpy().astype(np.float64), observations, before_codec=True),
        Reached(told, f"right among {len(centre)}", found.cpu().numpy().astype(float), observations, before_codec=True),
    ]
