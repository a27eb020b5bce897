"""VGG-11 on CIFAR-10 on one GPU: pictures per second, and the share of what the card's bfloat16 units can do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.training_loop import BATCH, CLASSES, FULL, Clock, read_cifar
from splitveil.contracts import Stage
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import load_defense
from splitveil.experiments.building import build_protected
from splitveil.metrics.cost import count_multiply_adds
from splitveil.modes import evaluating
from splitveil.nets.vgg import vgg11
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.specs import TrainingSpec
from splitveil.training.loop import Trainer
from splitveil.training.tasks import Classification

__all__ = ["measure_gpu"]

_PASSES = 3  # a backward pass costs two forward ones
_SIDE, _PRODUCTS = 8192, 30
CASES = [
    (batch, precision, compiled)
    for batch in (BATCH, 1024)
    for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True))
]


def measure_gpu(folder: Path, n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The third epoch of `cem` on n pictures, per batch size, precision, and compilation."""
    device = torch.device("cuda")
    _, table = read_cifar(folder, n)
    ceiling = _ceiling(device)
    rows: list[dict[str, Any]] = [
        {"part": "gpu", "case": "matrix product", "quantity": "bfloat16_tflops", "value": ceiling / 1e12}
    ]
    best = 0.0
    for batch, precision, compiled in CASES:
        rate, operations = _rate(Pictures(table, device), batch, precision, compiled)
        share = rate * operations / ceiling
        case = f"vgg11, cem, batch {batch}, {precision}{', compiled' if compiled else ''}"
        rows += [
            {"part": "gpu", "case": case, "quantity": "pictures_per_s", "value": rate},
            {"part": "gpu", "case": case, "quantity": "share_of_bfloat16_ceiling", "value": share},
        ]
        best = max(best, rate)
    card = torch.cuda.get_device_name(device)
    shares = [row["value"] for row in rows if row["quantity"] == "share_of_bfloat16_ceiling"]
    return {"gpu": card, "gpu_pictures_per_s": round(best), "gpu_share_of_bf16_ceiling": round(max(shares), 4)}, rows


def _ceiling(device: torch.device) -> float:
    """Operations per second of one large product of bfloat16 matrices, measured here."""
    a = torch.randn(_SIDE, _SIDE, device=device, dtype=torch.bfloat16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_PRODUCTS):
        a @ a
    torch.cuda.synchronize()
    return 2 * _SIDE**3 * _PRODUCTS / (time.perf_counter() - started)


def _rate(pictures: Pictures, batch: int, precision: str, compiled: bool) -> tuple[float, float]:
    """Pictures per second of whole epochs behind the first two, and operations per picture."""
    with Rng(0).scoped():
        model, penalties = build_protected(vgg11(classes=CLASSES), load_defense("cem", {}), CLASSES, Rng(0))
    model.to(pictures.device).to(memory_format=torch.channels_last)
    operations = 2.0 * _PASSES * _multiply_adds(model, pictures.device)
    settings = TrainingSpec.model_validate(
        {"epochs": 3, "batch_size": batch, "lr": 0.01, "augment": FULL, "precision": precision, "compile": compiled}
    )
    clock = Clock()
    few = Pictures(ImageTable(pictures.images[:batch], pictures.labels[:batch]), pictures.device)
    trainer = Trainer(
        model,
        Classification(),
        penalties,
        (Stage(),),
        settings,
        train=pictures,
        val=few,
        classes=CLASSES,
        rng=Rng(0),
        observer=clock,
    )
    trainer.run()
    # an epoch ends with a validation, which waits for the device: from the end of one to the end of the next is honest
    elapsed = clock.ends[-1] - clock.ends[-2]
    return len(pictures) / elapsed, operations


def _multiply_adds(model: Any, device: torch.device) -> int:
    x = torch.zeros(1, *model.input_shape, device=device)
    with evaluating(model), torch.no_grad():
        noises = model.draw(SeededNoise(Rng(0)), 1, device)
        return count_multiply_adds(lambda: model(x, noises))
