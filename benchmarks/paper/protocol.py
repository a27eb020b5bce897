"""How one trained run is attacked: as the paper does it, and as it should be done."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks.paper.adversarial import refine
from benchmarks.paper.scales import Scale
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


def attack_like_the_paper(
    record: RunRecord, data: LoadedData, scale: Scale, keep: Callable[[str, Callable[[], Any]], Any]
) -> dict[str, Any]:
    """Its decoder from the training pictures, scored on all test pictures; from nine tenths of the test pictures,
    scored on the last; and the first refined: its error in training, and on all test pictures.

    Not honest: an attacker need not have the training pictures. Where ours departs from the paper: a third of the
    table of training pictures is the honest attacker's and validation's, so model and decoder learn from the rest; the
    decoder holds a tenth of its pictures out and keeps its best epoch; no checkpoint is chosen on test pictures.

    Args:
        record: the run.
        data: its pictures.
        scale: of the attackers.
        keep: calls a step, or returns what it returned in an earlier process.
    """
    device = pick_device(None)
    subject = ModelSubject(load_model(record, data, device=device))
    test, train = hold(data.splits.test, device), hold(data.splits.train, device)
    cut = int(_INFER * len(test))
    held, last = test.take(torch.arange(cut)), test.take(torch.arange(cut, len(test)))
    return {
        **keep("train", lambda: _learned(subject, train, test, "train", scale, refined=scale.adversarial)),
        **keep("infer", lambda: _learned(subject, held, last, "infer", scale)),
    }


def attack_honestly(record: RunRecord, data: LoadedData, scale: Scale) -> dict[str, Any]:
    """The worst attacker of the scale, from auxiliary pictures that neither the model nor the scores have seen.

    Each learns on releases of the defense that it attacks, with its mechanism and noise: a decoder, the strongest of
    the suite ``standard`` on one release, and the closed form.
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


def _learned(
    subject: ModelSubject, auxiliary: Pictures, test: Pictures, name: str, scale: Scale, refined: int = 0
) -> dict[str, dict[str, Any]]:
    begun = time.monotonic()
    target = Target(subject, test=test, auxiliary=lambda threat: auxiliary, seed=0)
    threat = replace(_WHITE_BOX, auxiliary="train")
    spec = PlugInSpec(name="decoder", params=dict(scale.decoder))
    result, decoder, _ = fit_and_score(target, spec, threat=threat)
    found = {name: {**_told(result.metrics, begun), "converged": result.converged}}
    if refined:
        begun = time.monotonic()
        key = Rng(0).child("refine", name)
        better, error = refine(copy.deepcopy(decoder), subject, auxiliary, epochs=refined, batch_size=_BATCH, rng=key)
        _, scores = target.score(better, threat, target.places(None))
        found["gan_infer"] = _told(summarise(scores, target.rng), begun)
        seen = len(auxiliary) // _BATCH * _BATCH
        found["gan_train"] = {**found["gan_infer"], "mse": error, "low": None, "high": None, "n": seen}
    return found


def _told(metrics: Mapping[str, MetricResult], begun: float) -> dict[str, Any]:
    mse = metrics["mse"]
    return {"mse": mse.mean, "low": mse.low, "high": mse.high, "n": mse.n, "seconds": time.monotonic() - begun}
