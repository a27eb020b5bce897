"""CEM at scale: the loss, the refit, their memory, and what an epoch with CEM costs: ``python -m benchmarks.cem``.

The loss is timed against the loop over classes and clusters that the oracle tests use, the refit against scikit-learn's
KMeans per class from the same starts for the same number of iterations. All times are ratios within this one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from benchmarks.cem_memory import CLUSTERS, synthetic
from benchmarks.harness import publish
from benchmarks.memory import measured_apart
from splitveil.bounds import information_bound
from splitveil.contracts import TrainState
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import cem, gaussian
from splitveil.defenses.base import Defense
from splitveil.experiments.api import factory, protect
from splitveil.experiments.recipes import load_recipe
from splitveil.mixtures import ClassMixture, fit_centroids, fit_stream
from splitveil.rng import Rng
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.tasks import Classification

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from bound_reference import looped_bound

SIZES = ((10, 512, 50_000), (100, 512, 50_000), (200, 2048, 20_000), (530, 1152, 40_000))
BATCH, NOISE_STD, ITERATIONS = 128, 0.1, 15
STREAM = (1024, 1_000_000)


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of some rounds after one that does not count."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def loss_step(loss: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """Forward and backward."""
    loss(z.detach().requires_grad_()).backward()  # type: ignore[no-untyped-call]


def measure_loss(mixture: ClassMixture, z: Tensor, y: Tensor) -> dict[str, float]:
    """One loss step of a batch: ours, the loop's, and how far apart their values are."""
    batch = torch.randperm(len(z), generator=Rng(3).generator())[:BATCH]
    rows, labels, noise = z[batch], y[batch], torch.tensor(NOISE_STD**2)

    def ours(x: Tensor) -> Tensor:
        return information_bound(x, noise, labels, mixture).mean() / mixture.q

    def looped(x: Tensor) -> Tensor:
        loss: Tensor = looped_bound(x, noise, labels, mixture)
        return loss

    apart = abs(float(ours(rows)) - float(looped(rows)))
    return {
        "loss_ms": 1e3 * seconds(partial(loss_step, ours, rows), 30),
        "loop_ms": 1e3 * seconds(partial(loss_step, looped, rows), 10),
        "loss_apart": apart,
    }


def inertia(z: Tensor, y: Tensor, centroids: Tensor) -> float:
    """Sum of squared distances to the nearest centroid of the own class."""
    total = 0.0
    for rows, labels in zip(torch.split(z, 512), torch.split(y, 512), strict=True):
        total += float((centroids[labels] - rows.unsqueeze(1)).square().sum(2).amin(1).double().sum())
    return total


def measure_refit(z: Tensor, y: Tensor, classes: int) -> dict[str, float]:
    """Lloyd's algorithm of all classes: ours against scikit-learn, one class after the other."""
    start, _ = fit_centroids(z, y, classes, CLUSTERS, Rng(5), iterations=0)
    by_class = [z[y == label].numpy() for label in range(classes)]

    def ours() -> Tensor:
        return fit_centroids(z, y, classes, CLUSTERS, Rng(5), start=start, iterations=ITERATIONS, tolerance=0.0)[0]

    def theirs() -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return [
                KMeans(CLUSTERS, init=start[label].numpy(), n_init=1, max_iter=ITERATIONS, tol=0.0).fit(rows)
                for label, rows in enumerate(by_class)
            ]

    reference = torch.stack([torch.from_numpy(model.cluster_centers_) for model in theirs()])
    return {
        "refit_s": seconds(ours, 3),
        "sklearn_s": seconds(theirs, 3),
        "inertia_over_sklearn": inertia(z, y, ours()) / inertia(z, y, reference.float()),
    }


def vgg_step_ms(device: torch.device) -> float:
    """A training step of the full-width VGG-11 under noise, batch 128."""
    parts = factory("vgg11", classes=10, input_shape=(3, 32, 32))
    model, objective = protect(parts, gaussian(noise_std=NOISE_STD), classes=10, seed=0)
    objective.to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.rand(BATCH, 3, 32, 32, device=device), torch.randint(0, 10, (BATCH,), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(x, y, TrainState(1, 0, 0.5, 0.01)).backward()
        optimizer.step()

    return 1e3 * seconds(step, 3)


class EpochClock(Observer):
    """Seconds from one epoch's end to the next."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            self.marks.append(time.perf_counter())


def quick_trainer(defense: Defense, clock: EpochClock, epochs: int) -> Trainer:
    """A run of the quick recipe on random pictures of CIFAR's size, as many as its splits have."""
    recipe = load_recipe("quick")
    parts = factory("vgg11", classes=10, input_shape=(3, 32, 32), **recipe.model_kwargs)
    model, objective = protect(parts, defense, classes=10, seed=0)
    model.to(memory_format=torch.channels_last)

    def pictures(n: int) -> Pictures:
        generator = Rng(n).generator()
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Pictures(ImageTable(images, torch.arange(n) % 10))

    return Trainer(
        model,
        Classification(),
        objective.penalties,
        defense.stages(),
        recipe.training.model_copy(update={"epochs": epochs}),
        train=pictures(7800),
        val=pictures(1200),
        classes=10,
        rng=Rng(0),
        observer=clock,
    )


def measure_epochs(rounds: int, epochs: int = 4) -> tuple[list[float], list[float]]:
    """Seconds of epochs, without the first of each run, in turns: plain and with CEM at a weight from the first on."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for defense, into in zip(
            (gaussian(noise_std=NOISE_STD), cem(noise_std=NOISE_STD, weight=0.1, schedule="constant")),
            found,
            strict=True,
        ):
            clock = EpochClock()
            quick_trainer(defense, clock, epochs).run()
            into.extend(later - earlier for earlier, later in zip(clock.marks, clock.marks[1:], strict=False))
    return found


def stream_over_batch() -> float:
    """Mean squared distance after a fit in one pass with room for a third, over that of a fit to everything."""
    z, y = synthetic(10, 512, 50_000)
    whole, streamed = ClassMixture(10, CLUSTERS, 512), ClassMixture(10, CLUSTERS, 512)
    whole.fit(z, y, Rng(0))
    fit_stream(streamed, zip(torch.split(z, 4096), torch.split(y, 4096), strict=True), Rng(0), room=16_384)
    return inertia(z, y, streamed.centroids) / inertia(z, y, whole.centroids)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of short trainings for the cost of an epoch")
    options = parser.parse_args()
    step_ms = vgg_step_ms(torch.device("cpu"))
    rows: list[dict[str, Any]] = []
    for classes, q, n in SIZES:
        z, y = synthetic(classes, q, n)
        mixture = ClassMixture(classes, CLUSTERS, q)
        mixture.fit(z, y, Rng(0), iterations=5)
        mixture.condition(torch.tensor(NOISE_STD**2))
        memory = measured_apart("benchmarks.cem_memory", "batch", classes, q, n)
        row = {"classes": classes, "q": q, "n": n, **measure_loss(mixture, z, y), **measure_refit(z, y, classes)}
        row["loss_speedup"] = row["loop_ms"] / row["loss_ms"]
        row["loss_share_of_step"] = row["loss_ms"] / step_ms
        row["refit_over_sklearn"] = row["refit_s"] / row["sklearn_s"]
        row["memory_mb"] = memory["bytes"] / 1e6
        row["memory_copies"] = memory["copies"]
        rows.append(row)
    plain, with_cem = measure_epochs(options.rounds)
    streamed = measured_apart("benchmarks.cem_memory", "stream", *STREAM)
    tenth = measured_apart("benchmarks.cem_memory", "stream", STREAM[0], STREAM[1] // 10)
    summary = {
        "loss_speedup_min": min(row["loss_speedup"] for row in rows),
        "loss_share_of_step_max": max(row["loss_share_of_step"] for row in rows),
        "refit_over_sklearn_max": max(row["refit_over_sklearn"] for row in rows),
        "refit_over_sklearn_many_classes": max(row["refit_over_sklearn"] for row in rows if row["classes"] >= 100),
        "inertia_over_sklearn_max": max(row["inertia_over_sklearn"] for row in rows),
        "memory_centroid_copies_max": max(row["memory_copies"] for row in rows),
        "stream_samples": STREAM[1],
        "stream_features": STREAM[0],
        "stream_peak_mb": streamed["bytes"] / 1e6,
        "stream_peak_mb_of_a_tenth": tenth["bytes"] / 1e6,
        "stream_room_mb": streamed["room_bytes"] / 1e6,
        "stream_objective_over_batch": stream_over_batch(),
        "epoch_overhead": statistics.median(with_cem) / statistics.median(plain),
        "epochs_timed": len(plain),
        "vgg11_step_ms": step_ms,
        "threads": torch.get_num_threads(),
    }
    publish("cem", summary, rows)


if __name__ == "__main__":
    main()
