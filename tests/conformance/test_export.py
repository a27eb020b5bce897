"""The exporter: what its files hold, and how it fails."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import harness
import numpy as np
import onnx
import pytest
import torch
from awkward import find
from torch import Tensor, nn

import splitveil
from splitveil.attacks.onnx import COMBINE_KEY, NOISE_KEY, RELEASE_KEY, OnnxSubject
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import (
    ContractError,
    InputError,
    MissingDataError,
    MissingExtraError,
    OutputError,
    UnknownNameError,
)
from splitveil.export import graph
from splitveil.export.graph import edge_parity, export_cloud, export_edge, export_finish, run_onnx
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.split_model import SplitModel


def with_head(head: nn.Module) -> SplitModel:
    return SplitModel(SplitParts(head, nn.Flatten(), (1, 4, 4)), Gaussian(noise_std=0.1))


class Reshaping(nn.Module):
    """Takes the batch for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Branching(nn.Module):
    """Branches on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Unknown(nn.Module):
    """Calls what ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1(x)


def test_names_axes_and_laws(tmp_path: Path) -> None:
    model = find("clip_gaussian_laplace").build()
    file = onnx.load(export_edge(model, tmp_path / "edge.onnx"))
    onnx.checker.check_model(file, full_check=True)
    assert [value.name for value in file.graph.input] == ["x", "gaussian_1", "laplace_2"]
    assert [value.name for value in file.graph.output] == ["r"]
    for value in (*file.graph.input, *file.graph.output):
        sizes = value.type.tensor_type.shape.dim
        assert sizes[0].dim_param == "n"
        assert all(size.dim_value > 0 for size in sizes[1:])
    texts = {item.key: item.value for item in file.metadata_props}
    assert texts.pop(COMBINE_KEY) == "median"  # the last noisy part is Laplace
    assert {key: json.loads(text) for key, text in texts.items()} == {
        NOISE_KEY: [
            {"name": "gaussian_1", "shape": [4, 8, 8], "law": "standard_normal"},
            {"name": "laplace_2", "shape": [4, 8, 8], "law": "uniform"},
        ],
        RELEASE_KEY: json.loads(json.dumps(model.release_spec.to_json())),
    }
    cloud = onnx.load(export_cloud(model, tmp_path / "cloud.onnx"))
    assert [value.name for value in (*cloud.graph.input, *cloud.graph.output)] == ["r", "reply"]


def test_an_exported_encoder_keeps_the_spec_of_its_release(tmp_path: Path) -> None:
    model = find("patch_tokens").build()
    edge = export_edge(model, tmp_path / "edge.onnx")
    assert model.release_spec.prefix_tokens == 1
    assert OnnxSubject(edge).release_spec == model.release_spec


@pytest.mark.parametrize("name", ["patch_tokens", "topk", "vector_laplace"])
def test_an_exported_encoder_combines_as_its_mechanism_does(name: str, tmp_path: Path) -> None:
    model = find(name).build()
    edge = export_edge(model, tmp_path / "edge.onnx")
    stack = torch.randn(2, 3, *model.release_spec.shape, generator=Rng(0).generator())
    torch.testing.assert_close(OnnxSubject(edge).combine(stack), model.mechanism.combine(stack))
    torch.testing.assert_close(OnnxSubject(edge, combine="mean").combine(stack), stack.mean(dim=1))
    first = OnnxSubject(edge, combine=lambda r: r[:, 0])
    assert torch.equal(first.combine(stack), stack[:, 0])
    with pytest.raises(UnknownNameError, match="unknown combination of releases 'medan': did you mean 'median'"):
        OnnxSubject(edge, combine="medan")


def test_a_combination_without_a_name_is_not_written(tmp_path: Path) -> None:
    model = find("topk").build()
    model.mechanism.combine = lambda r: r.amax(dim=1)  # type: ignore[method-assign]
    file = onnx.load(export_edge(model, tmp_path / "edge.onnx"))
    assert COMBINE_KEY not in {item.key for item in file.metadata_props}
    file.metadata_props.add(key=COMBINE_KEY, value="magic")
    onnx.save(file, tmp_path / "edge.onnx")
    with pytest.raises(
        InputError, match=r"expected one of mean, median, union, kept_mean under 'splitveil\.combine'.*'magic'"
    ):
        OnnxSubject(tmp_path / "edge.onnx")


@pytest.mark.parametrize(
    "text",
    [
        '{"shape": [3, 3, 3], "kind": "map", "channel_axis": 0}',
        "[]",
        "{",
        '{"shape": [4], "kind": "map"}',
        '{"shape": [4, 8, 8], "kind": "map", "channel_axis": 0, "range": ["a", "b"]}',
        '{"shape": [4, 8, 8], "kind": "map", "channel_axis": 0, "range": [1.0, 0.0]}',
    ],
)
def test_a_file_that_says_another_release_is_refused(tmp_path: Path, text: str) -> None:
    file = onnx.load(export_edge(find("topk").build(), tmp_path / "edge.onnx"))
    for item in file.metadata_props:
        if item.key == RELEASE_KEY:
            item.value = text
    onnx.save(file, tmp_path / "edge.onnx")
    with pytest.raises(InputError, match=r"expected the spec of the release under 'splitveil\.release'"):
        OnnxSubject(tmp_path / "edge.onnx")


def test_an_identity_finish_has_no_file(tmp_path: Path) -> None:
    assert export_finish(find("vib").build(), tmp_path / "finish.onnx") is None
    assert list(tmp_path.iterdir()) == []


def test_no_source_and_no_names_of_the_other_side_ship(tmp_path: Path) -> None:
    model = find("ensemble").build()
    edge, cloud = export_edge(model, tmp_path / "edge.onnx"), export_cloud(model, tmp_path / "cloud.onnx")
    for word in (b".py", str(Path(splitveil.__file__).parent).encode(), b"SplitModel", b"stack_trace"):
        assert word not in edge.read_bytes()
        assert word not in cloud.read_bytes()
    for word in (b"tail", b"finish", b"bodies"):
        assert word not in edge.read_bytes()
    assert b"head" not in cloud.read_bytes()


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = find("vib").build()
    model.train()
    model.tail.eval()
    modes = [child.training for child in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    export_edge(model, tmp_path / "edge.onnx")
    assert [child.training for child in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model = find("tokens").build()
    first, second = export_edge(model, tmp_path / "a.onnx"), export_edge(model, tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()


def test_parity_sees_another_model(tmp_path: Path) -> None:
    model, other = find("pruned").build(seed=0), find("pruned").build(seed=1)
    edge = export_edge(model, tmp_path / "edge.onnx")
    x, drawn = harness.pictures(model, 2), harness.noises(model, 2)
    assert edge_parity(model, edge, x, drawn) < 1e-5
    difference = edge_parity(other, edge, x, drawn)
    expected = (harness.simulate(model, x, drawn) - harness.simulate(other, x, drawn)).abs().max()
    assert difference == pytest.approx(float(expected), abs=1e-5)
    assert difference > 1e-2


def test_parity_refuses_what_is_not_a_number(tmp_path: Path) -> None:
    model = harness.wire(Identity(), find("topk").build().feature_spec)
    edge = export_edge(model, tmp_path / "edge.onnx")
    with pytest.raises(InputError, match="expected finite releases"):
        edge_parity(model, edge, torch.full((1, *model.input_shape), torch.nan), ())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Reshaping(), r"expected 'x' with a free batch axis, got shape \[2,1,4,4\]"),
        (Branching(), "expected parts that torch can export with a free batch, got .*data-dependent"),
        (Unknown(), "expected parts that torch can export with a free batch, got .*i1"),
    ],
    ids=["fixed batch", "branch on a value", "unknown operation"],
)
def test_a_part_that_cannot_be_exported_is_explained(head: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        export_edge(with_head(head), tmp_path / "edge.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x", "r"])
def test_a_reserved_name_is_refused(name: str, tmp_path: Path) -> None:
    model = with_head(nn.Flatten())
    (spec,) = model.noise_specs
    model.mechanism.noise_spec = lambda z: (type(spec)(name, spec.shape, spec.law),)  # type: ignore[method-assign]
    with pytest.raises(ContractError, match="expected noises with different names"):
        export_edge(model, tmp_path / "edge.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_explained(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"exporting needs the package '{package}'.*splitveil\[export\]"):
        export_edge(with_head(nn.Flatten()), tmp_path / "edge.onnx")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edge.onnx"
    file.write_bytes(b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(graph, "_save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        export_edge(with_head(nn.Flatten()), file)
    assert file.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["edge.onnx"]


def test_weights_beyond_one_file_stand_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = find("vib").build()
    whole = export_edge(model, tmp_path / "whole.onnx")
    assert [item.name for item in tmp_path.iterdir()] == ["whole.onnx"]
    monkeypatch.setattr(graph, "_SINGLE_FILE_BYTES", 100)
    edge = export_edge(model, tmp_path / "edge.onnx")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["edge.onnx", "edge.onnx.data", "whole.onnx"]
    assert edge.stat().st_size < whole.stat().st_size
    x, drawn = harness.pictures(model, 3), harness.noises(model, 3)
    assert edge_parity(model, edge, x, drawn) < 1e-5
    export_edge(model, edge)
    assert edge_parity(model, edge, x, drawn) < 1e-5


def test_run_onnx_explains_its_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = export_edge(with_head(nn.Flatten()), tmp_path / "edge.onnx")
    x, noise = np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 16), np.float32)
    assert run_onnx(edge, {"x": x, "gaussian": noise})["r"].shape == (2, 16)
    with pytest.raises(InputError, match="gaussian"):
        run_onnx(edge, {"x": x})
    with pytest.raises(InputError, match="expected an ONNX file and inputs that fit it"):
        run_onnx(edge, {"x": x[:, :, :3], "gaussian": noise})
    with pytest.raises(InputError, match="expected inputs with one row per picture"):
        run_onnx(edge, {"x": x, "gaussian": noise[:1]})
    with pytest.raises(MissingDataError, match="export the model first"):
        run_onnx(tmp_path / "none.onnx", {})
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(InputError, match="expected an ONNX file"):
        run_onnx(tmp_path / "text.onnx", {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="onnxruntime"):
        run_onnx(edge, {"x": x})
