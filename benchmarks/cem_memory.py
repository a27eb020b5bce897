"""Memory of fits, each in a process of its own: ``python -m benchmarks.cem_memory batch K Q N`` or ``stream Q N``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.memory import peak_allocated, peak_growth
from splitveil.mixtures import ClassMixture, fit_stream
from splitveil.mixtures.kmeans import CHUNK_VALUES
from splitveil.rng import Rng

CLUSTERS = 5
STREAM_CLASSES, STREAM_CHUNK, STREAM_ROOM = 10, 4096, 16_384


def synthetic(classes: int, q: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features in (0, 1) like a sigmoid's, in clusters that overlap, so that Lloyd moves on, and their labels."""
    generator = Rng(seed).child("features").generator()
    y = torch.arange(n) % classes
    place = 0.1 * torch.randn(classes * CLUSTERS, q, generator=generator)
    cluster = y * CLUSTERS + torch.randint(0, CLUSTERS, (n,), generator=generator)
    z = torch.randn(n, q, generator=generator).mul_(0.7).add_(place[cluster]).sigmoid_()
    return z, y


def stream(q: int, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The like in chunks, made as they are asked for."""
    generator = Rng(1).child("stream").generator()
    place = 0.1 * torch.randn(STREAM_CLASSES * CLUSTERS, q, generator=generator)
    for start in range(0, n, STREAM_CHUNK):
        size = min(STREAM_CHUNK, n - start)
        y = torch.randint(0, STREAM_CLASSES, (size,), generator=generator)
        cluster = y * CLUSTERS + torch.randint(0, CLUSTERS, (size,), generator=generator)
        yield torch.randn(size, q, generator=generator).mul_(0.7).add_(place[cluster]).sigmoid_(), y


def main() -> None:
    """Print what a batch fit allocates at most, or by how much a stream's fit grows the resident memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["batch", "stream"])
    parser.add_argument("sizes", type=int, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm = ClassMixture(2, 2, 64)  # libraries load and threads start before the count begins
    warm.fit(*synthetic(2, 64, 400), Rng(0))
    if options.what == "batch":
        classes, q, n = options.sizes
        z, y = synthetic(classes, q, n)
        mixture = ClassMixture(classes, CLUSTERS, q)
        grown = peak_allocated(lambda: mixture.fit(z, y, Rng(0), iterations=5))
        centroids = mixture.centroids.numel() * 4
        chunk = min(2 * CHUNK_VALUES, z.numel()) * 4
        print(json.dumps({"bytes": grown, "copies": max(0.0, (grown - chunk) / centroids), "chunk_bytes": chunk}))
    else:
        q, n = options.sizes
        mixture = ClassMixture(STREAM_CLASSES, CLUSTERS, q)
        grown = peak_growth(lambda: fit_stream(mixture, stream(q, n), Rng(0), room=STREAM_ROOM, iterations=10))
        print(json.dumps({"bytes": grown, "room_bytes": STREAM_ROOM * q * 4}))


if __name__ == "__main__":
    main()
