"""How one trained run is attacked: as the paper does it, and as it should be done."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
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

_INFER = 0.9  # share of the test pictures that the second attacker of the paper learns from
_WHITE_BOX = ThreatModel.preset("white_box")


def attack_like_the_paper(record: RunRecord, data: LoadedData, scale: Scale) -> dict[str, Any]:
    """Its decoder from the training pictures, scored on all test pictures; from nine tenths of the test pictures,
    scored on the last; and the refined ones.

    Not honest: an attacker need not have the training pictures, and the paper's checkpoint is chosen on the test
    pictures (ours is not, at any scale).
    """
    device = pick_device(None)
    subject = ModelSubject(load_model(record, data, device=device))
    test, train = hold(data.splits.test, device), hold(data.splits.train, device)
    cut = int(_INFER * len(test))
    held, last = test.take(torch.arange(cut)), test.take(torch.arange(cut, len(test)))
    return {
        **_learned(subject, train, test, "train", scale),
        **_learned(subject, held, last, "infer", scale),
    }


def attack_honestly(record: RunRecord, data: LoadedData, scale: Scale) -> dict[str, Any]:
    """The worst attacker of the scale, from auxiliary pictures that neither the model nor the scores have seen."""
    target = run_target(record, data=data)
    results = [attack_target(record, target, attack, threat=_WHITE_BOX) for attack in scale.honest]
    worst = min(results, key=lambda result: result.metrics["mse"].mean)
    return {
        "attack": worst.attack.name,
        **{name: worst.metrics[name].model_dump() for name in ("mse", "psnr", "ssim")},
        "samples": worst.samples,
        "tried": {result.attack.name: result.metrics["mse"].mean for result in results},
        "beats_controls": worst.beats_controls,
    }


def _learned(
    subject: ModelSubject, auxiliary: Pictures, test: Pictures, name: str, scale: Scale
) -> dict[str, dict[str, Any]]:
    begun = time.monotonic()
    target = Target(subject, test=test, auxiliary=lambda threat: auxiliary, seed=0)
    threat = replace(_WHITE_BOX, auxiliary="train")
    spec = PlugInSpec(name="decoder", params=dict(scale.decoder))
    result, decoder, _ = fit_and_score(target, spec, threat=threat)
    found = {name: _told(result.metrics, begun)}
    if scale.adversarial:
        begun = time.monotonic()
        rng = Rng(0).child("refine", name)
        refined = refine(copy.deepcopy(decoder), subject, auxiliary, epochs=scale.adversarial, batch_size=128, rng=rng)
        _, scores = target.score(refined, threat, target.places(None))
        found[f"gan_{name}"] = _told(summarise(scores, target.rng), begun)
    return found


def _told(metrics: Mapping[str, MetricResult], begun: float) -> dict[str, Any]:
    mse = metrics["mse"]
    return {"mse": mse.mean, "low": mse.low, "high": mse.high, "n": mse.n, "seconds": time.monotonic() - begun}
