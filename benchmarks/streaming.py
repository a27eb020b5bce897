"""Half a million pictures from a parquet folder: how fast, and in how much memory, beside the same pictures in memory.

    python -m benchmarks.streaming [--pictures 500000] [--seconds 120]

prints what it finds; as the part ``stream`` of `benchmarks.training` it is kept beside the other figures of training.

Rates: one process holds the table in memory and the table in a file, and trains the quick recipe's net on both in
turns of a few seconds, so that whatever else the machine does falls on both; the median of the turns counts. Peaks: a
process of its own reads, splits and trains by streaming, from nothing (`decode`) and from the decoded file (`stream`).
`same_bits` says whether the weights of a layer are the same after five steps, whichever way the pictures came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from statistics import median
from threading import Condition, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.memory import measured_apart
from splitveil.data.holding import hold
from splitveil.data.tables import ImageTable
from splitveil.experiments.building import build_run
from splitveil.experiments.completing import complete
from splitveil.experiments.environment import pick_device
from splitveil.experiments.recipes import load_recipe
from splitveil.experiments.training import LoadedData, load_data_spec
from splitveil.rng import Rng
from splitveil.specs import DataSpec, ModelSpec, PlugInSpec, RunSpec
from splitveil.training.loop import Trainer
from splitveil.training.observer import Observer
from splitveil.training.tasks import Classification

__all__ = ["main", "measure", "write_pictures"]

_CLASSES, _SIDE, _ROWS, _SHARD = 10, 32, 2_000, 50_000
_WARM_UP, _TURNS = 5, 8
_MEGABYTE = 1 << 20


def write_pictures(folder: Path, count: int) -> Path:
    """Noise of one of ten brightnesses as BMP in parquet files of 50,000 rows, as the hub lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())])
    for shard, start in enumerate(range(0, count, _SHARD)):
        with pq.ParquetWriter(folder / f"train-{shard:05d}.parquet", schema) as writer:
            for first in range(start, min(start + _SHARD, count), _ROWS):
                labels = np.arange(first, min(first + _ROWS, start + _SHARD, count)) % _CLASSES
                cells = [{"bytes": _picture(draw, int(label)), "path": ""} for label in labels]
                writer.write_table(pa.table([pa.array(cells, kind), pa.array(labels)], schema=schema))
    return folder


def _picture(draw: np.random.Generator, label: int) -> bytes:
    pixels = draw.integers(0, 100, (_SIDE, _SIDE, 3), dtype=np.uint8) + np.uint8(15 * label)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")  # noise does not shrink: the format only decides how long writing takes
    return buffer.getvalue()


def measure(pictures: int = 500_000, seconds: float = 120.0, folder: Path | None = None) -> dict[str, Any]:
    """Rates and peaks of reading from memory and from a file: ``summary`` and ``rows``.

    Args:
        pictures: how many.
        seconds: of training in turns; peaks take a quarter of it each.
        folder: where pictures and the decoded file are written, a temporary one by default.
    """
    place = Path(tempfile.mkdtemp(prefix="streaming-", dir=folder))
    try:
        os.environ["SPLITVEIL_CACHE"] = str(place / "cache")
        source = write_pictures(place / "pictures", pictures)
        alone = {way: _apart("peak", source, seconds / 4) for way in ("decode", "stream")}
        turns = _apart("turns", source, seconds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    rows = [
        {"reading": "memory", **turns["memory"], "peak_mb": turns["peak_mb"]},
        {"reading": "stream, in turns", **turns["stream"], "peak_mb": turns["peak_mb"]},
        *({"reading": f"{way}, alone", **found} for way, found in alone.items()),
    ]
    summary = {
        "pictures": pictures,
        "decoded_mb": pictures * 3 * _SIDE * _SIDE / _MEGABYTE,
        "stream_rate_share": turns["stream"]["pictures_per_s"] / turns["memory"]["pictures_per_s"],
        "stream_peak_mb": max(found["peak_mb"] for found in alone.values()),
        "bare_peak_mb": _apart("imports", source, 0)["peak_mb"],
        "same_bits": len({row["weights"] for row in rows}) == 1,
    }
    return {"summary": summary, "rows": rows}


def _apart(what: str, folder: Path, seconds: float) -> dict[str, Any]:
    return measured_apart("benchmarks.streaming", "--part", what, folder, seconds)


class _EnoughError(Exception):
    """The time is up."""


class _Turn(Observer):
    """Trains only while it is its turn, and stops when the time is up.

    Args:
        number: whose turn it must be.
        table: what all take turns at.
    """

    def __init__(self, number: int, table: _Table) -> None:
        self.number, self.table = number, table
        self.steps, self.rates, self.seen = 0, list[float](), ""
        self.weight: torch.Tensor | None = None
        self.started, self.since = 0.0, 0

    def start(self, what: str, total: int, done: int) -> None:
        self._wait()

    def advance(self, text: str) -> None:
        self.steps += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.steps == _WARM_UP and self.weight is not None:
            self.seen = hashlib.sha256(self.weight.detach().cpu().numpy().tobytes()).hexdigest()[:16]
            self.started, self.since = time.monotonic(), self.steps
        elapsed = time.monotonic() - self.started
        if self.steps > _WARM_UP and elapsed >= self.table.turn_s:
            self.rates.append((self.steps - self.since) / elapsed)
            if len(self.rates) >= self.table.turns:
                self.table.leave(self.number)
                raise _EnoughError
            self.table.give(self.number)
            self._wait()

    def _wait(self) -> None:
        self.table.wait(self.number)
        self.started, self.since = time.monotonic(), self.steps

    def found(self, batch_size: int) -> dict[str, Any]:
        return {"pictures_per_s": median(self.rates) * batch_size, "steps": self.steps, "weights": self.seen}


class _Table:
    """Whose turn it is."""

    def __init__(self, players: int, turn_s: float, turns: int) -> None:
        self.turn_s, self.turns = turn_s, turns
        self._order, self._changed = list(range(players)), Condition()

    def wait(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._order[0] == number)

    def give(self, number: int) -> None:
        with self._changed:
            self._order.append(self._order.pop(self._order.index(number)))
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        with self._changed:
            self._order.remove(number)
            self._changed.notify_all()


def _spec(folder: Path) -> RunSpec:
    return RunSpec(
        data=DataSpec(source="parquet", path=str(folder), stream=True),
        model=ModelSpec(factory="splitveil.nets.vgg:vgg11", kwargs={"width": 0.25}),
        defense=PlugInSpec(name="gaussian", params={"noise_std": 0.1}),
        training=load_recipe("quick").training,
    )


def _trainer(asked: RunSpec, data: LoadedData, turn: _Turn) -> Trainer:
    spec, _ = complete(asked, data.source, data.splits)
    model, penalties, defense = build_run(spec, data.source.classes)
    device = pick_device(None)
    turn.weight = next(model.to(device).to(memory_format=torch.channels_last).parameters())
    return Trainer(
        model,
        Classification(),
        penalties,
        defense.stages(),
        spec.training,
        train=hold(data.splits.train, device),
        val=hold(data.splits.val, device),
        classes=data.source.classes,
        rng=Rng(0).child("train"),
        observer=turn,
    )


def _play(trainer: Trainer) -> None:
    with suppress(_EnoughError):
        trainer.run()


def _turns(folder: Path, seconds: float) -> dict[str, Any]:
    """Train both ways in turns, on the decoded file and on the same rows in memory."""
    table = _Table(2, seconds / (2 * _TURNS), _TURNS)
    turns = {"memory": _Turn(0, table), "stream": _Turn(1, table)}
    spec = _spec(folder)
    streamed = load_data_spec(spec.data)
    splits = streamed.splits
    held = replace(splits, train=_held(splits.train), val=_held(splits.val))
    data = {"memory": LoadedData(streamed.source, held), "stream": streamed}
    players = [Thread(target=_play, args=(_trainer(spec, data[way], turn),)) for way, turn in turns.items()]
    for player in players:
        player.start()
    for player in players:
        player.join()
    return {"peak_mb": _peak_mb(), **{way: turn.found(spec.training.batch_size) for way, turn in turns.items()}}


def _held(table: ImageTable) -> ImageTable:
    return ImageTable(table.images[:], table.labels)


def _peak(folder: Path, seconds: float) -> dict[str, Any]:
    """Train by streaming, alone."""
    spec, turn = _spec(folder), _Turn(0, _Table(1, max(seconds, 1.0), 1))
    _play(_trainer(spec, load_data_spec(spec.data), turn))
    return {**turn.found(spec.training.batch_size), "peak_mb": _peak_mb()}


def _imports(folder: Path, seconds: float) -> dict[str, Any]:
    """Nothing: what the libraries take."""
    return {"peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--folder", type=Path, help="where there is room for the pictures")
    parser.add_argument("--part", nargs=3, metavar=("PART", "FOLDER", "SECONDS"), help="one part, as JSON")
    given = parser.parse_args()
    if given.part:
        what, folder, seconds = given.part
        part = {"turns": _turns, "peak": _peak, "imports": _imports}[what]
        print(json.dumps(part(Path(folder), float(seconds))))
        return
    print(json.dumps(measure(given.pictures, given.seconds, given.folder), indent=2))


if __name__ == "__main__":
    main()
