"""Graphs in fewer bits: close to the original, smaller, and with the noise as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from bundle_fixtures import make_bundle
from splitveil.errors import InputError
from splitveil.export.graph import run_onnx
from splitveil.export.precision import Precision, lower_precision, reached_by
from splitveil_edge.passport import CLOUD, EDGE

RNG = np.random.default_rng(0)
X = RNG.random((8, 1, 8, 8), dtype=np.float32)
NOISE = RNG.standard_normal((8, 4, 8, 8), dtype=np.float32)
FEEDS = [{"x": X, "gaussian": NOISE}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("precision") / "bundle", finish=True)


def release(file: Path, noise: np.ndarray) -> np.ndarray:
    return run_onnx(file, {"x": X, "gaussian": noise})["r"].astype(np.float64)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 2e-3), ("int8", 5e-2)])
def test_the_edge_is_close_and_its_noise_is_float32(
    bundle: Path, tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    file = Path(shutil.copy(bundle / EDGE, tmp_path / EDGE))
    lower_precision(file, precision, ["gaussian"], FEEDS)
    zero = np.zeros_like(NOISE)
    difference = np.abs(release(file, zero) - release(bundle / EDGE, zero)).max()
    assert 0 < difference < tolerance
    # what the noise adds is what it added, to the last bits of float32: half floats would err by 1e-4
    added = release(file, NOISE) - release(file, zero)
    np.testing.assert_allclose(added, 0.1 * NOISE, atol=3e-7)
    kept = {item.key for item in onnx.load(file).metadata_props}
    assert kept == {item.key for item in onnx.load(bundle / EDGE).metadata_props}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3), ("int8", 0.1)])
def test_the_cloud_is_close_and_smaller(bundle: Path, tmp_path: Path, precision: Precision, tolerance: float) -> None:
    file = Path(shutil.copy(bundle / CLOUD, tmp_path / CLOUD))
    r = release(bundle / EDGE, NOISE).astype(np.float32)
    lower_precision(file, precision, None, [{"r": r}])
    before, after = (run_onnx(path, {"r": r})["reply"] for path in (bundle / CLOUD, file))
    assert 0 < np.abs(before - after).max() < tolerance
    assert file.stat().st_size < 0.75 * (bundle / CLOUD).stat().st_size
    assert run_onnx(file, {"r": r[:3]})["reply"].shape == (3, 10)  # the batch is still free


def test_fp32_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(bundle / EDGE, tmp_path / EDGE))
    lower_precision(file, "fp32", ["gaussian"], [])
    assert file.read_bytes() == (bundle / EDGE).read_bytes()


def test_what_noise_reaches_is_found(bundle: Path) -> None:
    graph = onnx.load(bundle / EDGE).graph
    reached = [node.op_type for node in graph.node if node.name in reached_by(graph, ["gaussian"])]
    assert reached
    assert "Conv" not in reached
    assert {node.name for node in graph.node} == reached_by(graph, ["gaussian", "x"])


def test_a_failure_leaves_the_file(bundle: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(bundle / EDGE, tmp_path / EDGE))
    with pytest.raises(InputError, match=r"cannot convert 'edge\.onnx' to int8"):
        lower_precision(file, "int8", ["gaussian"], [{"wrong": X}])
    assert file.read_bytes() == (bundle / EDGE).read_bytes()
