"""A run whose pictures stay in a file is the run whose pictures are in memory, stopped or not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from splitveil.data import reading
from splitveil.experiments.training import load_data_spec, train_run
from splitveil.records import RunRecord
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.training.observer import Observer
from task_fixtures import squares


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parquet files of bright squares."""
    place = tmp_path_factory.mktemp("pictures")
    pictures, labels, _, _ = squares(200)
    for shard in range(2):
        cells = []
        for index in range(100 * shard, 100 * shard + 100):
            buffer = io.BytesIO()
            Image.fromarray(pictures[index]).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
        table = pa.table({"image": pa.array(cells), "label": pa.array(labels[100 * shard : 100 * shard + 100])})
        pq.write_table(table, place / f"train-{shard}.parquet", row_group_size=30)
    return place


def spec_of(folder: Path, stream: bool | None) -> RunSpec:
    return RunSpec(
        data=DataSpec(source="parquet", path=str(folder), stream=stream),
        model=ModelSpec(factory="splitveil.nets.small:small"),
        defense=PlugInSpec(name="cem", params={"noise_std": 0.1, "clusters": 2}),
        training=TrainingSpec(epochs=3, batch_size=32, augment=AugmentSpec(crop=1), sampling="balanced"),
    )


class Stop(Observer):
    """Whoever stops after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, text: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def outcome(run: RunRecord) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    return load_file(run.path / "weights.safetensors"), list(run.events())


def test_streamed_stopped_and_resumed_in_memory_it_has_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    expected, events = outcome(train_run(spec_of(folder, False), tmp_path / "memory", device="cpu"))
    with pytest.raises(KeyboardInterrupt):
        train_run(spec_of(folder, True), tmp_path / "run", device="cpu", observer=Stop(6), checkpoint_interval_s=0.0)
    monkeypatch.setattr(reading, "memory_bytes", lambda: 1)  # streams of itself now
    found, heard = outcome(train_run(spec_of(folder, None), tmp_path / "run", device="cpu"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert heard == events
    assert np.isfinite(events[0]["loss"])


def test_a_cache_that_changes_under_a_run_is_found_by_its_digest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitveil.errors import InputError

    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path / "cache"))
    spec = spec_of(folder, True).data
    sealed = spec.model_copy(update={"digest": load_data_spec(spec).splits.digest})
    assert load_data_spec(sealed).splits.digest == sealed.digest
    (rows,) = (tmp_path / "cache").rglob("rows")
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(bytes(content))
    with pytest.raises(InputError, match="expected the pictures with digest"):
        load_data_spec(sealed)
