"""The built-in networks: the sizes of the CEM paper, what a head promises about its features, and faulty arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError
from splitveil.nets.layers import scaled
from splitveil.nets.parts import SplitParts
from splitveil.nets.resnet import BasicBlock, resnet20
from splitveil.nets.small import small
from splitveil.nets.vgg import vgg11
from splitveil.rng import Rng

Factory = Callable[..., SplitParts]
CUTS = {vgg11: 13, resnet20: 10, small: 1}
SMALLEST = {vgg11: 32, resnet20: 8, small: 4}

each_factory = pytest.mark.parametrize("factory", [vgg11, resnet20, small], ids=lambda factory: factory.__name__)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pictures(n: int, shape: tuple[int, ...], key: str = "pictures") -> Tensor:
    return torch.rand(n, *shape, generator=Rng(0).child(key).generator())


def build(factory: Factory, seed: int = 0, **kwargs: Any) -> SplitParts:
    """A narrow network whose weights hang on the seed alone."""
    side = SMALLEST[factory]
    with Rng(seed).scoped():
        return factory(**{"classes": 5, "input_shape": (3, side, side), "width": 0.125, **kwargs})


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("kwargs", "head", "feature"),
    [
        ({}, 85_256, (8, 8, 8)),
        ({"cut": 3}, 85_256, (8, 16, 16)),
        ({"cut": 1}, 6_536, (8, 32, 32)),
        ({"cut": 2}, 6_536, (8, 16, 16)),
        ({"cut": 5}, 390_152, (8, 8, 8)),
        ({"bottleneck": None}, 76_032, (128, 8, 8)),
        ({"input_shape": (3, 48, 48)}, 85_256, (8, 12, 12)),
    ],
    ids=str,
)
def test_vgg11_has_the_papers_sizes(kwargs: dict[str, Any], head: int, feature: tuple[int, ...]) -> None:
    """The encoders that PAPER.md counts in the paper's code (section 5.1)."""
    with torch.device("meta"):
        parts = vgg11(classes=10, **kwargs)
    assert parameters(parts.head) == head
    assert parts.feature is not None
    assert parts.feature.shape == feature


def test_vgg11_holds_each_layer_once_wherever_it_is_cut() -> None:
    """Without the two convolutions of the bottleneck the cut moves parameters and neither adds nor loses any."""
    convolutions = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    classifier = 2 * (512 * 512 + 512) + 512 * 10 + 10
    expected = sum(9 * into * out + out + 2 * out for into, out in convolutions) + classifier
    with torch.device("meta"):
        for cut in range(1, 14):
            parts = vgg11(classes=10, cut=cut, bottleneck=None)
            assert parameters(parts.head) + parameters(parts.tail) == expected
        whole = vgg11(classes=10)
    around = (9 * 128 * 8 + 8) + (9 * 8 * 128 + 128)
    assert parameters(whole.head) + parameters(whole.tail) == expected + around == 9_774_994


@pytest.mark.parametrize(
    ("cut", "feature"), [(1, (8, 64, 64)), (2, (8, 32, 32)), (4, (8, 32, 32)), (5, (8, 16, 16)), (10, (8, 8, 8))]
)
def test_resnet20_has_the_papers_feature_shapes(cut: int, feature: tuple[int, ...]) -> None:
    with torch.device("meta"):
        parts = resnet20(classes=200, cut=cut)
    assert parts.feature is not None
    assert parts.feature.shape == feature


def test_resnet20_has_the_sizes_of_its_layers() -> None:
    stem = 25 * 3 * 16 + 2 * 16
    blocks = sum(
        9 * into * size + 9 * size * size + 4 * size + 2 * (18 * size * size + 4 * size)
        for into, size in [(16, 32), (32, 64), (64, 128)]
    )
    linear = 128 * 200 + 200
    with torch.device("meta"):
        for cut in range(1, 11):
            parts = resnet20(classes=200, cut=cut, bottleneck=None)
            assert parameters(parts.head) + parameters(parts.tail) == stem + blocks + linear
        assert parameters(resnet20(classes=200).head) == 112_472


def test_small_has_the_sizes_of_its_layers() -> None:
    parts = small(classes=10)
    assert parameters(parts.head) == (9 * 16 + 48) + (9 * 16 * 16 + 48) + (9 * 16 * 8 + 8)
    assert parameters(parts.tail) == (9 * 8 * 16 + 16) + (9 * 16 * 32 + 96) + (9 * 32 * 32 + 96) + 330
    assert parts.feature == FeatureSpec.of((8, 4, 4), range=(0.0, 1.0))


@given(channels=st.integers(1, 1024), width=st.floats(0.01, 8.0))
@settings(max_examples=20, deadline=None)
def test_a_width_gives_multiples_of_eight(channels: int, width: float) -> None:
    result = scaled(channels, width)
    assert result % 8 == 0
    assert result >= 8
    assert abs(result - channels * width) <= 4 or result == 8


@each_factory
def test_the_width_scales_all_channels_but_the_bottleneck(factory: Factory) -> None:
    narrow, wide = build(factory, width=0.5), build(factory, width=1.0)
    assert narrow.feature == wide.feature
    for part in ("head", "tail"):
        few, many = parameters(getattr(narrow, part)), parameters(getattr(wide, part))
        assert 1.5 < many / few < 4.5


# ------------------------------------------------------------------------------------------------ features


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_declared_feature_is_what_the_head_gives(data: st.DataObject) -> None:
    """Any cut, picture and bottleneck: the declared shape, values inside (0, 1), logits behind the tail."""
    factory = data.draw(st.sampled_from([vgg11, resnet20, small]))
    sides = st.integers(SMALLEST[factory], SMALLEST[factory] + 5)
    shape = (data.draw(st.sampled_from([1, 3])), data.draw(sides), data.draw(sides))
    bottleneck = data.draw(st.sampled_from([None, 1, 8]))
    cut = {} if factory is small else {"cut": data.draw(st.integers(1, CUTS[factory]))}
    parts = build(factory, input_shape=shape, bottleneck=bottleneck, classes=3, **cut)
    assert parts.input_shape == shape
    assert parts.feature is not None
    with torch.no_grad():
        z = parts.head(pictures(2, shape))
        output = parts.finish(parts.tail(z))
    parts.feature.check(z, "z")
    assert parts.feature.range == (0.0, 1.0)
    assert parts.feature == FeatureSpec.of(z.shape[1:], range=(0.0, 1.0))
    if bottleneck is not None:
        assert parts.feature.shape[0] == bottleneck
    assert bool(((z > 0) & (z < 1)).all())
    assert output.shape == (2, 3)


def test_without_a_bottleneck_the_sigmoid_follows_a_relu() -> None:
    """PAPER.md 5.1: the undefended head releases values in [.5, 1)."""
    z = build(vgg11, bottleneck=None).head(pictures(2, (3, 32, 32))).detach()
    assert float(z.min()) == 0.5
    assert float(z.max()) < 1.0


def test_a_bottleneck_has_no_relu() -> None:
    z = build(vgg11).head(pictures(4, (3, 32, 32))).detach()
    assert float(z.min()) < 0.5 < float(z.max())


@each_factory
def test_the_normalisation_is_inside_the_head(factory: Factory) -> None:
    mean, std = [0.1, 0.5, 0.7], [0.2, 0.3, 0.5]
    x = pictures(3, (3, SMALLEST[factory], SMALLEST[factory]))
    plain = build(factory).head.eval()
    inside = build(factory, mean=mean, std=std).head.eval()
    by_hand = (x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    assert torch.equal(inside(x), plain(by_hand))
    assert not torch.allclose(inside(x), plain(x), atol=1e-4)
    state = inside.state_dict()
    assert state["normalise.mean"].flatten().tolist() == pytest.approx(mean)
    assert state["normalise.std"].flatten().tolist() == pytest.approx(std)
    assert "normalise.mean" not in dict(inside.named_parameters())


# ------------------------------------------------------------------------------------------------ weights


@each_factory
def test_weights_hang_on_the_key_alone(factory: Factory) -> None:
    first, again, other = build(factory), build(factory), build(factory, seed=1)
    for part in ("head", "tail"):
        one, two, three = (getattr(parts, part).state_dict() for parts in (first, again, other))
        assert all(torch.equal(one[name], two[name]) for name in one)
        weights = [name for name in one if name.endswith("weight") and one[name].ndim > 1]
        assert weights
        assert not any(torch.equal(one[name], three[name]) for name in weights)


@each_factory
def test_the_head_is_xavier_uniform_and_the_tail_is_not(factory: Factory) -> None:
    """PAPER.md 5.1: only the encoder's convolutions get another initialisation than PyTorch's."""
    parts = build(factory, width=1.0)
    for part, xavier in ((parts.head, True), (parts.tail, False)):
        layers = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        layers = [layer for layer in layers if layer.weight.numel() >= 1000]
        assert layers
        for layer in layers:
            area = math.prod(layer.kernel_size)
            fan_in, fan_out = area * layer.in_channels, area * layer.out_channels
            limit = math.sqrt(6 / (fan_in + fan_out)) if xavier else 1 / math.sqrt(fan_in)
            assert 0.97 * limit < float(layer.weight.detach().abs().max()) <= limit


@each_factory
def test_every_weight_of_head_and_tail_can_learn(factory: Factory) -> None:
    parts = build(factory, input_shape=(3, 40, 40))
    parts.tail(parts.head(pictures(4, (3, 40, 40)))).square().sum().backward()
    for name, parameter in [*parts.head.named_parameters(), *parts.tail.named_parameters()]:
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all())


def test_a_basic_block_subsamples_and_pads_its_shortcut() -> None:
    block = BasicBlock(4, 10, 2).eval()
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.weight)  # the residual branch gives zeros
    x = pictures(2, (4, 7, 9))
    y = block(x)
    assert y.shape == (2, 10, 4, 5)
    assert torch.equal(y[:, 3:7], x[:, :, ::2, ::2])
    assert not bool(y[:, :3].any())
    assert not bool(y[:, 7:].any())


# ------------------------------------------------------------------------------------------------ faults


@each_factory
@pytest.mark.parametrize(
    "kwargs",
    [
        {"classes": 0},
        {"classes": 2.0},
        {"classes": "10"},
        {"width": 0},
        {"width": -1.0},
        {"width": 8.1},
        {"width": math.nan},
        {"width": math.inf},
        {"width": "wide"},
        {"bottleneck": 0},
        {"bottleneck": 1.5},
        {"input_shape": (32, 32)},
        {"input_shape": (3, 32, 32, 1)},
        {"input_shape": (0, 32, 32)},
        {"input_shape": (3, 32, 3)},
        {"input_shape": (3, 3, 32)},
        {"input_shape": (3, 32, 32.0)},
        {"mean": [0.5]},
        {"mean": [0.5, 0.5, math.nan]},
        {"std": [0.2, 0.2, 0.0]},
        {"std": [0.2, 0.2, -0.2]},
        {"std": [0.2, 0.2, math.inf]},
        {"std": [0.2, 0.2, 0.2, 0.2]},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(factory: Factory, kwargs: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"expected .*, got "):
        build(factory, **kwargs)


@pytest.mark.parametrize("factory", [vgg11, resnet20], ids=["vgg11", "resnet20"])
@pytest.mark.parametrize("cut", [0, -1, 14, 2.0, "4", None])
def test_a_cut_outside_the_network_is_refused(factory: Factory, cut: Any) -> None:
    with pytest.raises(SpecError, match=rf"expected cut between 1 and {CUTS[factory]}, got"):
        build(factory, cut=cut)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_a_dropout_that_keeps_nothing_is_refused(dropout: float) -> None:
    with pytest.raises(SpecError, match="expected 0 <= dropout < 1, got"):
        build(vgg11, dropout=dropout)


@each_factory
def test_the_smallest_picture_is_the_smallest(factory: Factory) -> None:
    side = SMALLEST[factory]
    assert build(factory).tail(build(factory).head(pictures(2, (3, side, side)))).shape == (2, 5)
    with pytest.raises(SpecError, match=f"at least {side} x {side}"):
        build(factory, input_shape=(3, side, side - 1))
