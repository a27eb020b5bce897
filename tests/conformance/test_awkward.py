"""The awkward cases against the contracts."""

from __future__ import annotations

from pathlib import Path

import harness
import numpy as np
import onnx
import pytest
import torch
from awkward import CASES, Case, find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from safetensors.torch import load_file
from scipy import stats

from splitveil.contracts import FeatureSpec
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.topk import TopK
from splitveil.experiments.storage import save_model
from splitveil.export.graph import export_cloud, export_edge, export_finish, run_onnx
from splitveil.nets.surgery import edits_from_json

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
with_channel = [case for case in CASES if case.stage_variance is not None]
without_channel = [case for case in CASES if case.stage_variance is None]


@each_case
@pytest.mark.parametrize("check", harness.CHECKS)
def test_case_keeps_the_contract(case: Case, check: str) -> None:
    getattr(harness, check)(case.build())


@each_case
def test_case_keeps_dtype_and_device(case: Case) -> None:
    model = case.build()
    harness.check_dtype_and_device(model.mechanism, model.feature_spec)
    harness.check_half_precision(model.mechanism, model.feature_spec)


@each_case
def test_case_exports_with_a_free_batch(case: Case, tmp_path: Path) -> None:
    harness.check_export_edge(case.build(), tmp_path)


@pytest.mark.parametrize("name", ["vib", "ensemble", "tokens"])
def test_the_other_parts_export_with_a_free_batch(name: str, tmp_path: Path) -> None:
    """Map, tokens, and three parts; the other cases share the tail of these."""
    harness.check_export_rest(find(name).build(), tmp_path)


@each_case
def test_case_is_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    harness.check_reload(case.build(), case.built(seed=0), case.built(seed=1), tmp_path)


def test_a_pruned_head_is_recorded_as_edits(tmp_path: Path) -> None:
    case = find("pruned")
    save_model(case.build(), case.built(), tmp_path)
    edits = edits_from_json((tmp_path / "architecture.json").read_text())
    assert {edit.module: edit.attributes for edit in edits} == {
        "head.0": {"out_channels": 4},
        "head.1": {"num_features": 4},
        "head.3": {"in_channels": 4},
    }
    weights = load_file(tmp_path / "weights.safetensors")
    assert weights["head.3.weight"].shape == (4, 4, 3, 3)


@pytest.mark.parametrize("case", with_channel, ids=lambda case: case.name)
def test_channel_has_the_law_that_it_declares(case: Case) -> None:
    harness.check_channel(case.build(), case.stage_variance)


@pytest.mark.parametrize("case", without_channel, ids=lambda case: case.name)
def test_other_cases_declare_no_channel(case: Case) -> None:
    model = case.build()
    assert model(harness.pictures(model, 2), harness.noises(model, 2)).channel is None


def test_vib_scale_follows_the_picture() -> None:
    model = find("vib").build().eval()
    with torch.no_grad():
        std = model(harness.pictures(model, 2), harness.noises(model, 2)).channel.std
    assert float((std[0] - std[1]).abs().max()) > 1e-4


def brute_force_topk(row: list[float], k: int) -> list[float]:
    kept = sorted(range(len(row)), key=lambda index: (-abs(row[index]), index))[:k]
    return [value if index in kept else 0.0 for index, value in enumerate(row)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=1, max_size=4), st.integers(1, 9))
def test_topk_breaks_ties_by_position(rows: list[list[int]], k: int) -> None:
    model = harness.wire(TopK(k / 9), FeatureSpec.of((9,)))
    r = model.simulate(torch.tensor(rows, dtype=torch.float32), ())
    assert r.tolist() == [brute_force_topk([float(value) for value in row], k) for row in rows]


def test_topk_breaks_ties_alike_in_onnx(tmp_path: Path) -> None:
    model = harness.wire(TopK(4 / 9), FeatureSpec.of((9,)))
    edge = export_edge(model, tmp_path / "edge.onnx")
    x = np.random.default_rng(0).integers(-2, 3, size=(50, 9)).astype(np.float32)
    assert run_onnx(edge, {"x": x})["r"].tolist() == [brute_force_topk(row, 4) for row in x.tolist()]


def test_topk_combines_to_the_union() -> None:
    r = torch.tensor([[[1.0, 0.0, -3.0], [0.0, 2.0, -3.0]]])
    assert TopK(0.5).combine(r).tolist() == [[1.0, 2.0, -3.0]]


def test_laplace_noise_has_the_laplace_law() -> None:
    model = harness.wire(Laplace(0.5), FeatureSpec.of((20_000,)))
    r = model.simulate(torch.zeros(1, 20_000), harness.noises(model, 1))
    assert stats.kstest(r[0].numpy(), stats.laplace(scale=0.5).cdf).pvalue > 0.01


def weights_in(file: Path) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]


def holds(arrays: list[np.ndarray], value: torch.Tensor) -> bool:
    flat = np.sort(value.detach().numpy().ravel())
    return any(array.size == flat.size and np.array_equal(np.sort(array.ravel()), flat) for array in arrays)


def test_each_file_of_the_ensemble_holds_its_own_part_only(tmp_path: Path) -> None:
    model = find("ensemble").build()
    edge = export_edge(model, tmp_path / "edge.onnx")
    cloud = export_cloud(model, tmp_path / "cloud.onnx")
    finish = export_finish(model, tmp_path / "finish.onnx")
    assert finish is not None
    own = {edge: model.head[3].bias, cloud: model.tail.bodies[1][1].weight, finish: model.finish.classify.weight}
    # the batch norm is folded into the convolution, so the head is recognised by its shape
    assert any(array.shape == model.head[0].weight.shape for array in weights_in(edge))
    for file in (edge, cloud, finish):
        for owner, weight in own.items():
            if owner is not edge:
                assert holds(weights_in(file), weight) == (file == owner)
    for file in (cloud, finish):
        assert not any(array.shape == model.head[0].weight.shape for array in weights_in(file))
    assert not holds(weights_in(cloud), model.finish.chosen)
    assert b"selector" not in cloud.read_bytes().lower()
    assert b"finish" not in cloud.read_bytes().lower()
