"""How one trained run is attacked: as the paper does it, and as it should be done."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.adversarial import refine
from benchmarks.paper.scales import Scale
from benchmarks.paper.steps import Steps, check_time
from splitveil.attacks.storage import load_inverter, save_inverter
from splitveil.attacks.subjects import ModelSubject
from splitveil.data.holding import hold
from splitveil.data.loader import Pictures
from splitveil.experiments.attacking import attack_target, fit_and_score, load_model, run_target
from splitveil.experiments.environment import pick_device
from splitveil.experiments.target import Target, summarise
from splitveil.experiments.training import LoadedData
from splitveil.records import MetricResult, RunRecord
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

__all__ = ["attack_honestly", "attack_like_the_paper"]

_BATCH = 128
_INFER = 0.9  # share of the test pictures that the second attacker of the paper learns from
_WHITE_BOX = ThreatModel.preset("white_box")
_PAPERS = replace(_WHITE_BOX, auxiliary="train")


def attack_like_the_paper(record: RunRecord, data: LoadedData, scale: Scale, keep: Steps) -> dict[str, Any]:
    """Its decoder from the training pictures, scored on all test pictures; from nine tenths of the test pictures,
    scored on the last; and the first refined: its error in training, and on all test pictures.

    Not honest: an attacker need not have the training pictures. Where ours departs from the paper: a third of the
    table of training pictures is the honest attacker's and validation's, so model and decoder learn from the rest; the
    decoder rescales releases, starts from the mean picture, holds a tenth of its pictures out and keeps its best epoch;
    no checkpoint is chosen on test pictures.

    Args:
        record: the run.
        data: its pictures.
        scale: of the attackers.
        keep: the steps; what one returned in an earlier process is not computed again.

    Raises:
        TimeIsUpError: before the last of them.
    """
    device = pick_device(None)
    subject = ModelSubject(load_model(record, data, device=device))
    test, train = hold(data.splits.test, device), hold(data.splits.train, device)
    cut = int(_INFER * len(test))
    held, last = test.take(torch.arange(cut)), test.take(torch.arange(cut, len(test)))
    decoder = keep.folder / "decoder.safetensors" if scale.adversarial else None
    found = {
        **keep("train", lambda: _learned("train", _target(subject, train, test), scale, decoder)),
        **keep("infer", lambda: _learned("infer", _target(subject, held, last), scale)),
    }
    if decoder is not None:
        found |= keep("refine", lambda: _refined(decoder, _target(subject, train, test), train, scale, keep))
        keep.store("refine").remove()
    return found


def attack_honestly(record: RunRecord, data: LoadedData, scale: Scale) -> dict[str, Any]:
    """The worst attacker of the scale, from auxiliary pictures that neither the model nor the scores have seen.

    Each learns on releases of the defense that it attacks, with its mechanism and noise.
    """
    target = run_target(record, data=data)
    results = [attack_target(record, target, attack, threat=_WHITE_BOX) for attack in scale.honest]
    worst = min(results, key=lambda result: result.metrics["mse"].mean)
    return {
        "attack": worst.attack.name,
        **{name: worst.metrics[name].model_dump() for name in ("mse", "psnr", "ssim")},
        "samples": worst.samples,
        "tried": {result.attack.name: result.metrics["mse"].mean for result in results},
        "converged": worst.converged,
        "beats_controls": worst.beats_controls,
    }


def _target(subject: ModelSubject, auxiliary: Pictures, test: Pictures) -> Target:
    return Target(subject, test=test, auxiliary=lambda threat: auxiliary, seed=0)


def _learned(name: str, target: Target, scale: Scale, to: Path | None = None) -> dict[str, dict[str, Any]]:
    """The decoder, kept in a file where it is to be refined."""
    begun, spec = time.monotonic(), PlugInSpec(name="decoder", params=dict(scale.decoder))
    result, decoder, _ = fit_and_score(target, spec, threat=_PAPERS)
    if to is not None:
        save_inverter(to, decoder, spec.model_dump(mode="json"))
    return {name: {**_told(result.metrics, begun), "converged": result.converged}}


def _refined(decoder: Path, target: Target, train: Pictures, scale: Scale, keep: Steps) -> dict[str, dict[str, Any]]:
    """The decoder of a file, refined; nothing where it diverged."""
    begun = time.monotonic()
    better, error = refine(
        load_inverter(decoder).to(train.device),
        target.subject,
        train,
        epochs=scale.adversarial,
        batch_size=_BATCH,
        rng=Rng(0).child("refine", "train"),
        store=keep.store("refine"),
        rest=lambda: check_time(keep.until),
    )
    if not math.isfinite(error):
        return {}
    _, scores = target.score(better, _PAPERS, target.places(None))
    scored = _told(summarise(scores, target.rng), begun)
    seen = len(train) // _BATCH * _BATCH
    return {"gan_infer": scored, "gan_train": {**scored, "mse": error, "low": None, "high": None, "n": seen}}


def _told(metrics: Mapping[str, MetricResult], begun: float) -> dict[str, Any]:
    mse = metrics["mse"]
    return {"mse": mse.mean, "low": mse.low, "high": mse.high, "n": mse.n, "seconds": time.monotonic() - begun}
