"""Any network is cut where one tensor is enough, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import TrainState
from splitveil.defenses import cem, gaussian
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError, UnknownNameError
from splitveil.experiments.api import protect
from splitveil.export.graph import export_edge, run_onnx
from splitveil.nets import cutting
from splitveil.nets.cutting import cut_model, list_cuts, make_network, split
from splitveil.nets.graphs import trace
from splitveil.noise import SeededNoise
from splitveil.rng import Rng

SIDE = 64
NETWORKS = {
    "vgg11_bn": ("features.3", "features.10", "avgpool"),
    "timm:resnet18": ("act1", "layer1.0", "layer3"),
    "timm:mobilenetv3_small_100": ("blocks.0", "blocks.2", "blocks.4.0"),
    "timm:vit_tiny_patch16_224": ("patch_embed", "blocks.2", "blocks.10"),
}
PLACES = [(name, at) for name, places in NETWORKS.items() for at in places]


def network(name: str) -> nn.Module:
    with Rng(0).scoped():
        return make_network(name, 5, (3, SIDE, SIDE)).eval()


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=Rng(1).generator())


@pytest.mark.parametrize(("name", "at"), PLACES)
def test_both_sides_together_are_the_network(name: str, at: str) -> None:
    whole = network(name)
    parts = split(whole, at, input_shape=(3, SIDE, SIDE))
    for n in (1, 3):
        x = pictures(n)
        with torch.no_grad():
            z = parts.head.eval()(x)
            sent = z.clone()
            reply = parts.tail.eval()(z)
            torch.testing.assert_close(reply, whole(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(z, sent), "the tail changes what crossed the wire"
        assert parts.feature is not None
        parts.feature.check(z, "z")
    assert {id(item) for item in whole.parameters()}.isdisjoint({id(item) for item in parts.head.parameters()})


@pytest.mark.parametrize(("name", "at"), PLACES)
def test_a_cut_network_trains_releases_and_predicts(name: str, at: str) -> None:
    with Rng(0).scoped():
        parts = cut_model(model=name, at=at, classes=5, input_shape=(3, SIDE, SIDE), bottleneck=6)
    model, objective = protect(parts, gaussian(noise_std=0.1), classes=5)
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for step in range(2):
        optimiser.zero_grad()
        objective(pictures(4), torch.arange(4), TrainState(0, step, 0.0, 1e-3)).backward()
        optimiser.step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert len(still) < 0.1 * len(before), still
    r = model.release(pictures(3), noise=SeededNoise(Rng(0)))
    assert model.feature_spec.shape[model.feature_spec.channel_axis] == 6
    assert model.predict(r).shape == (3, 5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "resnet" in name or "vit" in name else pytest.mark.long) for name in NETWORKS],
)
def test_a_cut_network_is_exported(name: str, tmp_path: Path) -> None:
    with Rng(0).scoped():
        parts = cut_model(model=name, at=NETWORKS[name][1], classes=5, input_shape=(3, SIDE, SIDE), bottleneck=4)
    model, _ = protect(parts, gaussian(noise_std=0.1), classes=5)
    edge = export_edge(model.eval(), tmp_path / "edge.onnx")
    x, noises = pictures(2), model.draw(SeededNoise(Rng(0)), 2, torch.device("cpu"))
    with torch.no_grad():
        expected = model.simulate(x, noises)
    names = [spec.name for spec in model.noise_specs]
    given = {"x": x.numpy(), **{key: value.numpy() for key, value in zip(names, noises, strict=True)}}
    torch.testing.assert_close(torch.from_numpy(run_onnx(edge, given)["r"]), expected, rtol=0, atol=1e-4)


def test_a_cut_inside_a_residual_block_is_refused_with_places_that_work() -> None:
    with pytest.raises(SpecError, match=r"cannot cut behind 'layer1.0.conv1'.*needed behind it too") as caught:
        split(network("timm:resnet18"), "layer1.0.conv1", input_shape=(3, SIDE, SIDE))
    assert "layer1.0" in str(caught.value)
    valid = [point.name for point in trace(network("timm:resnet18"), (3, SIDE, SIDE)).points()]
    assert "layer1.0" in valid
    assert "layer1.0.conv1" not in valid


def test_tokens_know_their_prefix_and_their_grid() -> None:
    parts = split(network("timm:vit_tiny_patch16_224"), "blocks.2", input_shape=(3, SIDE, SIDE), bottleneck=8)
    assert parts.feature is not None
    assert (parts.feature.shape, parts.feature.prefix_tokens, parts.feature.grid) == ((17, 8), 1, (4, 4))


class Skipping(nn.Module):
    """Reads its first layer again at the end, in place, and asks how many pictures there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.flatten(1))
        y = functional.relu(self.second(z))
        y += z
        y *= self.scale
        return self.last(y.reshape(x.shape[0], -1))


def test_what_is_read_again_cannot_be_left_behind() -> None:
    whole = Skipping().eval()
    with pytest.raises(SpecError, match="cannot cut behind 'second': what 'first' computed is needed"):
        split(whole, "second", input_shape=(1, 2, 2))
    parts = split(whole, "first", input_shape=(1, 2, 2))
    for n in (1, 4):
        x = torch.rand(n, 1, 2, 2, generator=Rng(n).generator())
        z = parts.head(x)
        sent = z.detach().clone()
        torch.testing.assert_close(parts.tail(z), whole(x))
        assert torch.equal(z, sent)


def test_weights_that_both_sides_use_cannot_be_parted() -> None:
    layer = nn.Linear(4, 4)
    shared = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(4, 2))
    with pytest.raises(SpecError, match="both sides use the same weights"):
        split(shared, "2", input_shape=(1, 2, 2))


def test_a_network_that_looks_at_values_is_refused_with_a_way_out() -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.mean()) > 0 else -x

    with pytest.raises(SpecError, match=r"cannot follow the operations of Choosing.*write a factory"):
        split(Choosing(), "a", input_shape=(1, 2, 2))


def test_costs_of_cuts_add_up() -> None:
    found = list_cuts(network("vgg11_bn"), input_shape=(3, SIDE, SIDE))
    spent = [item.edge_multiply_adds for item in found]
    assert spent == sorted(spent)
    assert found[0].edge_multiply_adds == 3 * 64 * 9 * SIDE * SIDE
    assert found[-1].cloud_share == pytest.approx(0.0)
    first = next(item for item in found if item.name == "features.3")
    assert (first.shape, first.payload_bytes) == ((64, SIDE // 2, SIDE // 2), 4 * 64 * (SIDE // 2) ** 2)


def test_weights_are_read_and_another_last_layer_keeps_its_own(tmp_path: Path) -> None:
    trained = make_network("timm:resnet18", 7, (3, SIDE, SIDE))
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    same = make_network("timm:resnet18", 7, (3, SIDE, SIDE), tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(value, same[key]) for key, value in trained.state_dict().items())
    other = make_network("timm:resnet18", 3, (3, SIDE, SIDE), tmp_path / "weights.safetensors")
    assert other.state_dict()["fc.weight"].shape == (3, 512)
    assert torch.equal(other.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])
    with pytest.raises(InputError, match="expected the weights of this network"):
        make_network("timm:mobilenetv3_small_100", 7, (3, SIDE, SIDE), tmp_path / "weights.safetensors")
    with pytest.raises(MissingDataError, match="got no file"):
        make_network("vgg11", 7, (3, SIDE, SIDE), tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match="expected safetensors"):
        make_network("vgg11", 7, (3, SIDE, SIDE), tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"model": "vgg99", "at": "a"}, UnknownNameError, "unknown network of torchvision"),
        ({"model": "timm:resnet99", "at": "a"}, UnknownNameError, "unknown network of timm 'resnet99'"),
        ({"model": "vgg11", "at": "body.3"}, SpecError, "expected a module of the network to cut behind, got 'body.3'"),
        ({"model": "vgg11", "at": "features.3", "bottleneck": 0}, SpecError, "bottleneck >= 1"),
    ],
)
def test_what_does_not_exist_is_refused(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        cut_model(classes=3, input_shape=(3, SIDE, SIDE), **given)


def test_without_timm_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"splitveil\[zoo\]"):
        make_network("timm:resnet18", 3, (3, SIDE, SIDE))


def test_conditional_entropy_hardens_a_network_of_timm() -> None:
    with Rng(0).scoped():
        parts = cut_model(model="timm:resnet18", at="layer1", classes=5, input_shape=(3, SIDE, SIDE), bottleneck=4)
    assert parts.feature is not None
    assert parts.feature.range == (0.0, 1.0)
    _, objective = protect(parts, cem(noise_std=0.1), classes=5)
    assert [item.name for item in objective.penalties] == ["conditional_entropy"]
