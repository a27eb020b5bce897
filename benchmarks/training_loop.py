"""The loop of splitveil beside a plain one with DataLoader workers, and beside itself without any work on pictures."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from splitveil.contracts import Stage
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.nets.parts import SplitParts
from splitveil.nets.small import small
from splitveil.nets.vgg import vgg11
from splitveil.rng import Rng
from splitveil.specs import AugmentSpec, TrainingSpec
from splitveil.split_model import SplitModel
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.tasks import Classification

__all__ = ["compare_loops", "read_cifar"]

BATCH, CLASSES = 128, 10
QUICK = AugmentSpec(crop=4, flip=True)
FULL = AugmentSpec(crop=4, flip=True, rotation=15.0)
NETS: dict[str, Callable[[], SplitParts]] = {
    "small": lambda: small(classes=CLASSES, input_shape=(3, 32, 32)),
    "small, quarter width": lambda: small(classes=CLASSES, input_shape=(3, 32, 32), width=0.25),
    "vgg11, quarter width": lambda: vgg11(classes=CLASSES, width=0.25),
}
CASES = [
    ("small, quarter width", "quick", "stored"),
    ("small, quarter width", "full", "stored"),
    ("small, quarter width", "quick", "memory"),
    ("small", "quick", "stored"),
    ("vgg11, quarter width", "quick", "stored"),
    ("vgg11, quarter width", "quick", "memory"),
]
"""Net, augmentation of a recipe, and what the plain loop's data set holds: files as stored, or arrays in memory."""

HEADLINE, IN_MEMORY = (("small, quarter width", "quick", held) for held in ("stored", "memory"))


class Stored(Dataset[tuple[Tensor, int]]):
    """What a plain loop reads: encoded files or arrays, then torchvision's transforms, picture by picture."""

    def __init__(self, files: list[bytes] | None, arrays: Any, labels: list[int], transform: Any) -> None:
        self.files, self.arrays, self.labels, self.transform = files, arrays, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.files is not None:
            picture = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        else:
            picture = Image.fromarray(self.arrays[index])
        return self.transform(picture), self.labels[index]


class Prepared(Pictures):
    """Batches that were made once: what is left is the loop without work on pictures."""

    def follow(self, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same few batches again and again."""
        ready = [super(Prepared, self).get(torch.arange(at, at + BATCH)) for at in range(0, 4 * BATCH, BATCH)]
        for index, chunk in enumerate(chunks):
            x, y = ready[index % len(ready)]
            yield x[: len(chunk)], y[: len(chunk)]


class Clock(Observer):
    """When each step, and each epoch with its validation, was done."""

    def __init__(self) -> None:
        self.ticks: list[float] = []
        self.ends: list[float] = []

    def advance(self, text: str) -> None:
        """A step."""
        self.ticks.append(time.perf_counter())

    def event(self, event: dict[str, Any]) -> None:
        """An epoch."""
        if event["event"] == "epoch":
            self.ends.append(time.perf_counter())


def read_cifar(folder: Path, n: int) -> tuple[list[bytes], ImageTable]:
    """The first n training pictures of the hub's layout: as stored, and decoded."""
    table = pyarrow.parquet.ParquetFile(folder / "train.parquet")
    rows = next(table.iter_batches(n)).to_pydict()
    files = [row["bytes"] for row in rows["image"]]
    arrays = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    images = torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()
    return files, ImageTable(images, torch.tensor(rows["label"]))


def ours(net: str, augment: AugmentSpec, pictures: Pictures) -> float:
    """Pictures per second of one epoch of the training loop, between its first and its last step."""
    with Rng(0).scoped():
        model = SplitModel(NETS[net](), Identity())
    model.to(pictures.device).to(memory_format=torch.channels_last)
    clock = Clock()
    settings = TrainingSpec(epochs=1, batch_size=BATCH, lr=0.01, augment=augment)
    few = Pictures(ImageTable(pictures.images[:BATCH], pictures.labels[:BATCH]), pictures.device)
    Trainer(
        model,
        Classification(),
        (),
        (Stage(),),
        settings,
        train=pictures,
        val=few,
        classes=CLASSES,
        rng=Rng(0),
        observer=clock,
    ).run()
    full = len(pictures) // BATCH
    return (full - 1) * BATCH / (clock.ticks[full - 1] - clock.ticks[0])


def plain(net: str, augment: AugmentSpec, files: list[bytes] | None, table: ImageTable, workers: int) -> float:
    """The same of a plain loop, from the first batch that its workers have ready on."""
    with Rng(0).scoped():
        parts = NETS[net]()
    model = nn.Sequential(parts.head, parts.tail).to(memory_format=torch.channels_last).train()
    steps: list[Any] = [transforms.RandomCrop(32, augment.crop), transforms.RandomHorizontalFlip()]
    if augment.rotation:
        steps.append(transforms.RandomRotation(augment.rotation))
    transform = transforms.Compose([*steps, transforms.ToTensor()])
    arrays = None if files is not None else table.images[:].permute(0, 2, 3, 1).contiguous().numpy()
    stored = Stored(files, arrays, table.labels.tolist(), transform)
    loader = DataLoader(stored, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    ticks = []
    for x, y in loader:
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        ticks.append(time.perf_counter())
    return (len(ticks) - 1) * BATCH / (ticks[-1] - ticks[0])


def compare_loops(folder: Path, n: int, rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All cases in turn, so that what else the machine does falls on all; medians over the rounds."""
    files, table = read_cifar(folder, n)
    workers = os.cpu_count() or 1
    rows, found = [], {}
    for case in track(CASES, "loops"):
        net, recipe, held = case
        augment = FULL if recipe == "full" else QUICK
        stored = files if held == "stored" else None
        contenders: dict[str, Callable[[], float]] = {
            "splitveil": lambda net=net, augment=augment: ours(net, augment, Pictures(table)),  # type: ignore[misc]
            "dataloader": lambda net=net, augment=augment, stored=stored: plain(net, augment, stored, table, workers),  # type: ignore[misc]
            "prepared": lambda net=net: ours(net, AugmentSpec(), Prepared(table)),  # type: ignore[misc]
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, run in contenders.items():
                rates[name].append(run())
        medians = {name: float(np.median(values)) for name, values in rates.items()}
        speedup = float(np.median(np.divide(rates["splitveil"], rates["dataloader"])))
        overhead = float(np.median(np.divide(rates["prepared"], rates["splitveil"]))) - 1
        found[case] = (speedup, overhead)
        label = f"{net}; {recipe} augmentation; {held}"
        rows += [
            {"part": "loop", "case": label, "quantity": f"{name}_pictures_per_s", "value": medians[name]}
            for name in medians
        ]
        rows += [
            {"part": "loop", "case": label, "quantity": "speedup_over_dataloader", "value": speedup},
            {"part": "loop", "case": label, "quantity": "data_overhead", "value": overhead},
        ]
    summary = {
        "speedup_over_dataloader": round(found[HEADLINE][0], 2),
        "speedup_over_dataloader_of_arrays": round(found[IN_MEMORY][0], 2),
        "least_speedup_over_dataloader": round(min(speedup for speedup, _ in found.values()), 2),
        "data_overhead": round(max(overhead for _, overhead in found.values()), 4),
        "dataloader_workers": workers,
        "loop_pictures": len(table),
        "loop_rounds": rounds,
    }
    return summary, rows
