"""How fast training is, what pictures cost it, where its time goes, and whether two processes train as one.

``python -m benchmarks.training --data FOLDER [--parts profile loop ranks stream gpu] [--pictures 12800] [--rounds 5]``

Each part replaces its own rows of ``results/training.json`` and keeps those of the others. ``gpu`` needs CUDA and is
left out without it. Compare numbers of one call only: a machine that does something else is slower for all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import streaming
from benchmarks.harness import on_file, publish
from benchmarks.training_gpu import measure_gpu
from benchmarks.training_loop import compare_loops
from benchmarks.training_profile import profile_steps
from benchmarks.training_ranks import compare_ranks

PARTS = ("profile", "loop", "ranks", "stream", "gpu")
NAME = "training"


def measure(part: str, options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary and the rows of one part."""
    if part == "profile":
        return {}, profile_steps(options.rounds)
    if part == "loop":
        return compare_loops(options.data, options.pictures, options.rounds)
    if part == "ranks":
        return compare_ranks(options.epochs)
    if part == "stream":
        return stream(options.streamed)
    return measure_gpu(options.data, options.pictures)


def stream(pictures: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`benchmarks.streaming`: its figures, and a row for each."""
    found = streaming.measure(pictures)
    summary = {
        key if key.startswith("stream_") else f"stream_{key}": round(value, 3) if isinstance(value, float) else value
        for key, value in found["summary"].items()
    }
    rows = [
        {"part": "stream", "case": row["reading"], "quantity": quantity, "value": row[quantity]}
        for row in found["rows"]
        for quantity in ("pictures_per_s", "peak_mb")
    ]
    return summary, rows


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 as train.parquet in the hub's layout")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pictures", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="of the part ranks")
    parser.add_argument("--streamed", type=int, default=500_000, help="pictures of the part stream")
    options = parser.parse_args()
    earlier = on_file(NAME) or {"summary": {}, "rows": []}
    summary, rows = earlier["summary"], earlier["rows"]
    for part in options.parts:
        if part == "gpu" and not torch.cuda.is_available():
            continue
        found, measured = measure(part, options)
        summary = {**summary, **found}
        rows = [*(row for row in rows if row["part"] != part), *measured]
        publish(NAME, summary, rows)


if __name__ == "__main__":
    main()
