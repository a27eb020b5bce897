"""Settings, sizing, bundles, runtimes, and the repository for Triton."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloud_fixtures import SMALL, cloud_bundle, releases

from bundle_fixtures import make_bundle
from splitveil.cloud.settings import Limits, ServeSettings, cores
from splitveil.cloud.sizing import Sizing, choose, measure_sizing
from splitveil.cloud.tails import onnx_tail, open_bundle
from splitveil.cloud.triton import triton_repository
from splitveil.errors import CheckFailedError, InputError, OutputError, SpecError, UsageError
from splitveil.export.graph import run_onnx
from splitveil_edge.errors import MissingFileError, TrustError
from splitveil_edge.passport import CLOUD, FINISH, PASSPORT


@pytest.mark.parametrize(
    "changes",
    [
        {"runtime": "tensorflow"},
        {"runtime": "torch"},
        {"run": "runs/x"},
        {"max_batch": 0},
        {"max_batch": 1.5},
        {"slots": -1},
        {"threads": True},
        {"max_delay_ms": -1},
        {"max_delay_ms": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        ServeSettings(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_rows": 0},
        {"max_body_bytes": 0},
        {"burst": 0},
        {"rate_per_s": 0.0},
        {"body_timeout_s": float("inf")},
        {"max_rows": 10, "max_queue_rows": 9},
    ],
)
def test_limits_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        Limits(**changes)


def test_the_fewest_rows_at_once_near_the_best_are_chosen() -> None:
    found = [Sizing(1, 2, 1, 80.0), Sizing(8, 1, 2, 96.0), Sizing(8, 2, 1, 99.0), Sizing(32, 2, 1, 100.0)]
    assert choose(found) == found[1]


def test_what_is_left_open_is_measured_and_what_is_given_stays(bundle: Path) -> None:
    served = open_bundle(bundle)
    sized = measure_sizing(served, ServeSettings(max_batch=4))
    assert sized.max_batch == 4
    assert sized.is_sized
    assert 1 <= (sized.slots or 0) * (sized.threads or 0) <= cores()


def test_the_tail_answers_as_the_graph(bundle: Path) -> None:
    r = releases(5)
    np.testing.assert_allclose(
        onnx_tail(open_bundle(bundle), 1)(r), run_onnx(bundle / CLOUD, {"r": r})["reply"], atol=1e-6
    )


def test_the_edges_secret_is_not_served(tmp_path: Path) -> None:
    whole = make_bundle(tmp_path / "whole")
    (whole / FINISH).write_bytes(b"a graph")
    with pytest.raises(UsageError, match=r"finish\.onnx.*bundle part"):
        open_bundle(whole)


def test_a_bundle_that_was_changed_or_is_none_is_refused(bundle: Path, tmp_path: Path) -> None:
    swapped = tmp_path / "swapped"
    shutil.copytree(bundle, swapped)
    data = bytearray((swapped / CLOUD).read_bytes())
    data[-1] ^= 1
    (swapped / CLOUD).write_bytes(data)
    with pytest.raises(TrustError, match="changed or swapped"):
        open_bundle(swapped)
    with pytest.raises(TrustError, match="expired"):
        open_bundle(cloud_bundle(tmp_path / "old", expires="2025-02-01T00:00:00Z"))
    with pytest.raises(MissingFileError):
        open_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"reply": {"shape": [11]}}, "replies of shape"), ({"release": None}, "to take r of shape")],
)
def test_a_graph_that_is_not_what_the_passport_says_is_refused(
    tmp_path: Path, bundle: Path, changes: dict[str, Any], said: str
) -> None:
    if changes.get("release", 0) is None:
        spec = json.loads((bundle / PASSPORT).read_bytes())["release"]
        changes = {"release": {**spec, "shape": [5, 8, 8]}}
    served = open_bundle(cloud_bundle(tmp_path / "bundle", **changes))
    with pytest.raises(InputError, match=re.escape(said)):
        onnx_tail(served, 1)


def test_another_run_than_the_exported_one_is_not_served(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = open_bundle(bundle)
    settings = replace(SMALL, runtime="torch", run="runs/other")
    right = onnx_tail(served, 1)
    monkeypatch.setattr("splitveil.cloud.tails.torch_tail", lambda run, threads: lambda rows: right(rows) + 0.1)
    with pytest.raises(CheckFailedError, match="the run that this bundle was exported from"):
        served.tail(settings, 1)
    monkeypatch.setattr("splitveil.cloud.tails.torch_tail", lambda run, threads: right)
    assert served.tail(settings, 1) is right


def test_a_repository_for_triton(bundle: Path, tmp_path: Path) -> None:
    folder = triton_repository(bundle, tmp_path / "models", max_batch=32)
    assert folder == tmp_path / "models" / "digits"
    config = (folder / "config.pbtxt").read_text()
    assert 'name: "digits"' in config
    assert "max_batch_size: 32" in config
    assert "dims: [ 4, 8, 8 ]" in config
    assert "dims: [ 10 ]" in config
    assert "max_queue_delay_microseconds: 2000" in config
    assert config.count("{") == config.count("}")
    assert config.count("[") == config.count("]")
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / CLOUD).read_bytes()
    assert (folder / "1" / PASSPORT).read_bytes() == (bundle / PASSPORT).read_bytes()
    with pytest.raises(OutputError, match="another --out"):
        triton_repository(bundle, tmp_path / "models")


@pytest.mark.parametrize(
    "settings", [{"max_batch": 0}, {"max_batch": -5}, {"max_delay_ms": -1.0}, {"max_delay_ms": float("nan")}]
)
def test_triton_gets_no_settings_that_it_cannot_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    bundle = cloud_bundle(tmp_path / "bundle")
    with pytest.raises(SpecError, match="expected"):
        triton_repository(bundle, tmp_path / "models", **settings)
    assert not (tmp_path / "models").exists()


def test_triton_cannot_decode_a_codec(tmp_path: Path) -> None:
    passport = json.loads((cloud_bundle(tmp_path / "plain") / PASSPORT).read_bytes())
    assert passport["codec"] == {"name": "float32"}
    bundle = cloud_bundle(tmp_path / "bundle", codec={"name": "quantise", "bits": 8, "low": -1.0, "high": 1.0})
    with pytest.raises(InputError, match="export without a codec"):
        triton_repository(bundle, tmp_path / "models")
