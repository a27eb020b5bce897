"""Run folders with real files and made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from splitveil.records import (
    AttackResult,
    DataSpec,
    Evaluation,
    MetricResult,
    ModelSpec,
    PlugInSpec,
    RunRecord,
    RunSpec,
    ScoreResult,
    TrainingSpec,
)
from splitveil.rng import Rng

MakeRun = Callable[..., RunRecord]

_UNITS = {"mse": "", "psnr": "dB", "ssim": "", "accuracy": ""}
_SAFER = {"mse": "higher", "psnr": "lower", "ssim": "lower", "accuracy": "higher"}
_CONTROL_MSE = {"mean_image": 0.071, "class_mean": 0.055, "ridge": 0.049}


def metric(name: str, mean: float, *, spread: float = 0.03, n: int = 200) -> MetricResult:
    """A result whose interval is a share `spread` of the mean to either side."""
    arm = abs(mean) * spread
    worst = mean - 4 * arm if _SAFER[name] == "higher" else mean + 4 * arm
    return MetricResult(
        unit=_UNITS[name],
        safer=_SAFER[name],
        mean=mean,
        low=mean - arm,
        high=min(1.0, mean + arm) if name in ("ssim", "accuracy") else mean + arm,
        level=0.95,
        worst=worst,
        worst_index=17,
        n=n,
    )


def scores(mse: float, **kwargs: Any) -> dict[str, MetricResult]:
    """The three picture metrics that an error of this size goes with."""
    psnr = float(-10 * np.log10(mse))
    return {
        "mse": metric("mse", mse, **kwargs),
        "psnr": metric("psnr", psnr, **kwargs),
        "ssim": metric("ssim", max(0.02, 1 - 12 * mse), **kwargs),
    }


def attack_result(
    mse: float,
    *,
    key: str = "decoder",
    beats_controls: bool = True,
    controls: Mapping[str, float] = _CONTROL_MSE,
    facts: Mapping[str, Any] | None = None,
    samples: str = "samples/decoder.safetensors",
    spread: float = 0.03,
) -> AttackResult:
    """A decoder attack with a history that converges on `mse`."""
    history = [
        {"epoch": e, "train_mse": mse * (0.9 + np.exp(-e / 4)), "val_mse": mse * (1 + np.exp(-e / 4))}
        for e in range(20)
    ]
    return AttackResult(
        key=key,
        attack=PlugInSpec(name="decoder", params={"epochs": 20}),
        threat={
            "grants": ["architecture", "labels", "pairs", "query", "tail"],
            "knows_mechanism": True,
            "auxiliary": "same",
            "observations": 1,
            "query_budget": None,
        },
        seed=0,
        metrics=scores(mse, spread=spread),
        controls={name: scores(value) for name, value in controls.items()},
        beats_controls=beats_controls,
        converged=True,
        facts={"history": history, "queries": 5390} if facts is None else dict(facts),
        samples=samples,
        elapsed_s=12.5,
    )


def write_samples(path: Path, noise: float, *, seed: int = 0, originals: np.ndarray | None = None) -> None:
    """Pictures of the digits, and the same with blur and noise, in the layout of an attack."""
    if originals is None:
        originals = (load_digits().images[seed : seed + 18, None] / 16 * 255).astype(np.uint8)
    random = Rng(seed).numpy()
    mean = originals.mean(axis=0, keepdims=True)
    share = min(1.0, noise * 2)
    back = (1 - share) * originals + share * mean + 255 * noise * 0.3 * random.standard_normal(originals.shape)
    back = back.clip(0, 255).astype(np.uint8)
    error = ((back / 255.0 - originals / 255.0) ** 2).mean(axis=(1, 2, 3)).astype(np.float32)
    worst = np.argsort(error)[:6]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "indices": np.arange(12, dtype=np.int64) + seed,
            "labels": np.arange(12, dtype=np.int64) % 10,
            "originals": originals[:12].copy(),
            "reconstructions": back[:12].copy(),
            "worst_indices": worst.astype(np.int64),
            "worst_originals": originals[worst].copy(),
            "worst_reconstructions": back[worst].copy(),
            "worst_mse": error[worst],
            "mse": error,
            "psnr": -10 * np.log10(np.maximum(error, 1e-10)),
            "ssim": 1 - error,
        },
        str(path),
    )


def epoch_events(epochs: int, accuracy: float, weight: float) -> list[dict[str, Any]]:
    """An event log of a training that goes well."""
    rows: list[dict[str, Any]] = [{"event": "stage", "stage": "train"}]
    for epoch in range(epochs):
        left = float(np.exp(-5 * epoch / epochs))
        effective = weight * min(1.0, 3 * epoch / epochs)
        terms = {"task": 0.1 + 2.2 * left} | ({"conditional_entropy": 0.4 + 0.5 * left} if weight else {})
        rows.append(
            {
                "event": "epoch",
                "stage": "train",
                "epoch": epoch,
                "lr": 0.05 * left,
                "loss": terms["task"] + effective * terms.get("conditional_entropy", 0.0),
                "terms": terms,
                "weights": {"conditional_entropy": effective} if weight else {},
                "train_accuracy": accuracy - 0.6 * left + 0.01,
                "val_loss": 0.2 + 2 * left,
                "val_accuracy": accuracy - 0.7 * left,
                "facts": {"conditional_entropy": _facts(left)} if weight else {},
            }
        )
    return rows


def _facts(left: float) -> dict[str, float]:
    held_out = 90.0 + 200.0 * left
    return {
        "theorem2_nats": 0.9 * held_out,
        "components": 10,
        "held_out_nats": held_out,
        "upper_nats": 1.1 * held_out,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(defense, mse, accuracy, ...)`` writes a run folder and returns its record.

    With ``mse=None`` the run has no attack, with ``accuracy=None`` no evaluation.
    """

    def make(
        defense: str,
        mse: float | None = 0.01,
        accuracy: float | None = 0.96,
        *,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        source: str = "digits",
        weight: float = 0.0,
        epochs: int = 20,
        attacks: Sequence[AttackResult] | None = None,
        samples: bool = True,
        sample_seed: int = 0,
        class_names: Sequence[str] = tuple("0123456789"),
        environment: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        record = RunRecord(tmp_path / "runs" / (name or defense))
        record.write(
            "spec.json",
            RunSpec(
                seed=seed,
                data=DataSpec(source=source),
                model=ModelSpec(factory="splitveil.nets.small:small", kwargs={"classes": 10}),
                defense=PlugInSpec(name=defense, params=dict(params or {})),
                training=TrainingSpec(epochs=max(epochs, 1)),
            ),
        )
        known = {"splitveil": "0.1.0", "python": "3.11.2", "torch": "2.15.0", "platform": "linux", "threads": 2}
        record.write("env.json", dict(known if environment is None else environment))
        if epochs:
            rows = epoch_events(epochs, accuracy or 0.9, weight)
            (record.path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if accuracy is not None:
            record.write("evaluation.json", _evaluation(accuracy, class_names))
        if attacks is None:
            attacks = [] if mse is None else [attack_result(mse)]
        for result in attacks:
            record.add_attack(result)
            if samples:
                noise = float(np.sqrt(result.metrics["mse"].mean))
                write_samples(record.path / result.samples, noise, seed=sample_seed)
        return record

    return make


def _evaluation(accuracy: float, class_names: Sequence[str]) -> Evaluation:
    return Evaluation(
        score=ScoreResult(name="accuracy", result=metric("accuracy", accuracy, spread=0.01)),
        payload_bytes=512,
        edge_parameters=1304,
        cloud_parameters=40_000,
        input_shape=(1, 8, 8),
        feature={"shape": [8, 4, 4], "kind": "map"},
        release={"shape": [8, 4, 4], "kind": "map"},
        noise=[],
        class_names=list(class_names),
        splits={"train": 900, "val": 150, "test": 360, "aux": 387},
        elapsed_s=8.0,
    )
