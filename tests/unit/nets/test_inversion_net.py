"""The inverse network: any release in, a picture of the right shape out, and the sizes of the CEM paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.errors import SpecError
from splitveil.nets.inversion import ResidualBlock, ResidualDecoder, _Doubling
from splitveil.rng import Rng

MAP = FeatureSpec.of((8, 8, 8))
CASES = {
    "same_size": (FeatureSpec.of((4, 8, 8)), (1, 8, 8)),
    "one_doubling": (FeatureSpec.of((4, 4, 4)), (3, 8, 8)),
    "two_doublings": (MAP, (3, 32, 32)),
    "faces": (FeatureSpec.of((2, 23, 28)), (1, 92, 112)),
    "faces_resized": (FeatureSpec.of((2, 11, 14)), (1, 92, 112)),
    "odd": (FeatureSpec.of((2, 5, 3)), (1, 13, 17)),
    "map_beyond_the_picture": (FeatureSpec.of((2, 16, 16)), (1, 8, 8)),
    "map_of_one_place": (FeatureSpec.of((6, 1, 1)), (1, 8, 8)),
    "channels_last": (FeatureSpec((4, 4, 6), "map", 2, (4, 4)), (1, 8, 8)),
    "tokens": (FeatureSpec.of((16, 6)), (1, 8, 8)),
    "tokens_with_class_token": (FeatureSpec.of((17, 6), prefix_tokens=1), (3, 16, 16)),
    "tokens_without_grid": (FeatureSpec.of((7, 6)), (1, 8, 8)),
    "tokens_on_a_long_grid": (FeatureSpec((8, 6), "tokens", 1, (2, 4)), (1, 8, 16)),
    "vector": (FeatureSpec.of((10,)), (1, 8, 8)),
    "vector_to_faces": (FeatureSpec.of((10,)), (1, 92, 112)),
    "vector_to_a_pixel": (FeatureSpec.of((3,)), (1, 1, 1)),
}


def make(release: FeatureSpec, picture: tuple[int, ...], **sizes: Any) -> ResidualDecoder:
    with Rng(0).scoped():
        return ResidualDecoder(release, picture, **{"channels": 3, "blocks": 1, **sizes})


def releases(spec: FeatureSpec, n: int = 2) -> Tensor:
    return torch.randn(n, *spec.shape, generator=Rng(1).generator())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("release", "picture", "blocks", "expected"),
    [
        ((8, 8, 8), (3, 32, 32), 8, 711_539),
        ((8, 8, 8), (3, 32, 32), 4, 415_091),
        ((128, 8, 8), (3, 32, 32), 8, 788_579),
        ((8, 12, 12), (3, 48, 48), 8, 711_539),
        ((8, 16, 16), (3, 64, 64), 8, 711_539),
    ],
)
def test_it_has_the_papers_sizes(
    release: tuple[int, ...], picture: tuple[int, ...], blocks: int, expected: int
) -> None:
    """PAPER.md 6.1; the feature shapes of the three data sets give the same network."""
    with torch.device("meta"):
        net = ResidualDecoder(FeatureSpec.of(release), picture, blocks=blocks)
    assert parameters(net) == expected


@pytest.mark.parametrize("name", CASES)
def test_any_release_becomes_a_picture(name: str) -> None:
    spec, picture = CASES[name]
    net = make(spec, picture)
    r = releases(spec).requires_grad_()
    pictures = net(r)
    assert pictures.shape == (2, *picture)
    assert bool(((pictures > 0) & (pictures < 1)).all())
    assert torch.equal(pictures, make(spec, picture)(r))
    (pictures - 0.9).square().sum().backward()
    assert r.grad is not None
    assert bool((r.grad.flatten(1).abs().sum(1) > 0).all())
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("name", CASES)
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    spec, picture = CASES[name]
    net, r = make(spec, picture).eval(), releases(spec, 3)
    with torch.no_grad():
        torch.testing.assert_close(net(r)[1:2], net(r[1:2]), rtol=0.0, atol=1e-6)
        assert net(r[:0]).shape == (0, *picture)
        torch.testing.assert_close(net.logits(r).sigmoid(), net(r), rtol=0.0, atol=0.0)


@given(
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    picture=st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24)),
)
@settings(max_examples=20, deadline=None)
def test_any_sizes_fit(side: tuple[int, int], picture: tuple[int, int, int]) -> None:
    spec = FeatureSpec.of((2, *side))
    assert make(spec, picture, channels=2).eval()(releases(spec, 2)).shape == (2, *picture)


@pytest.mark.parametrize(
    ("side", "picture", "doublings"),
    [(8, 32, 2), (8, 63, 2), (8, 64, 3), (8, 31, 1), (8, 15, 0), (8, 4, 0), (1, 8, 3)],
)
def test_the_doublings_never_pass_the_picture(side: int, picture: int, doublings: int) -> None:
    net = make(FeatureSpec.of((2, side, side)), (1, picture, picture))
    found = [layer for layer in net.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert len(found) == doublings
    reached = net.body(net.to_map(releases(FeatureSpec.of((2, side, side))))).shape[-1]
    assert reached == side * 2**doublings
    assert reached <= max(picture, side)
    assert net.resize == (reached != picture)
    # the first one, N of them, one in place of each doubling below two, and the one that draws
    blocks = [layer for layer in net.modules() if isinstance(layer, ResidualBlock)]
    assert len(blocks) == 1 + 1 + max(2 - doublings, 0) + 1


def test_the_class_token_is_left_out() -> None:
    spec, picture = CASES["tokens_with_class_token"]
    net, r = make(spec, picture).eval(), releases(spec)
    changed = r.clone()
    changed[:, 0] += 10.0
    assert torch.equal(net(changed), net(r))
    changed[:, 1] += 10.0
    assert not torch.equal(net(changed), net(r))


def test_tokens_lie_on_their_grid_row_by_row() -> None:
    """The token of row i and column j stands where a map has its place (i, j)."""
    tokens, grid = FeatureSpec((6, 4), "tokens", 1, (2, 3)), FeatureSpec.of((4, 2, 3))
    r = releases(tokens)
    as_map = r.reshape(2, 2, 3, 4).permute(0, 3, 1, 2)
    picture = (1, 8, 12)
    assert torch.equal(make(tokens, picture).eval()(r), make(grid, picture).eval()(as_map))


def test_channels_stand_where_the_spec_says() -> None:
    last, first = FeatureSpec((4, 4, 6), "map", 2, (4, 4)), FeatureSpec.of((6, 4, 4))
    r = releases(last)
    assert torch.equal(make(last, (1, 8, 8)).eval()(r), make(first, (1, 8, 8)).eval()(r.permute(0, 3, 1, 2)))


def test_a_residual_block_is_its_formula() -> None:
    with Rng(0).scoped():
        block = ResidualBlock(3, 5)
    x = releases(FeatureSpec.of((3, 6, 6)))

    def norm(value: Tensor) -> Tensor:
        centred = value - value.mean((0, 2, 3), keepdim=True)
        return centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()

    inner = functional.conv2d(norm(x).relu(), block.conv1.weight, block.conv1.bias, padding=1)
    outer = functional.conv2d(norm(inner).relu(), block.conv2.weight, block.conv2.bias, padding=1)
    projection = block.shortcut[0].weight  # type: ignore[index]
    torch.testing.assert_close(block(x), outer + norm(functional.conv2d(x, projection)), rtol=1e-4, atol=1e-5)


def test_a_residual_block_of_one_width_keeps_its_input() -> None:
    block = ResidualBlock(4, 4)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    x = releases(FeatureSpec.of((4, 5, 5)))
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("picture", "sizes"),
    [
        ((8, 8), {}),
        ((1, 8, 8, 1), {}),
        ((1, 0, 8), {}),
        ((0, 8, 8), {}),
        ((1, 8, 8), {"channels": 0}),
        ((1, 8, 8), {"blocks": 0}),
        ((1, 8, 8), {"blocks": -1}),
    ],
)
def test_sizes_below_one_are_refused(picture: tuple[int, ...], sizes: dict[str, int]) -> None:
    with pytest.raises(SpecError, match="expected a picture"):
        make(MAP, picture, **sizes)


class TestDoubling:
    def test_it_is_a_transposed_convolution_values_and_gradients(self) -> None:
        theirs = nn.ConvTranspose2d(3, 3, 3, stride=2, padding=1, output_padding=1).double()
        ours = _Doubling(3).double()
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
        gradients = list[tuple[Tensor, ...]]()
        for net in (theirs, ours):
            held = x.clone().requires_grad_()
            y = net(held)
            gradients.append((y, *torch.autograd.grad(y.sin().sum(), [held, *net.parameters()])))
        assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True))

    def test_it_stays_in_the_precision_of_its_convolution(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert _Doubling(2)(torch.zeros(1, 2, 3, 3)).dtype == torch.bfloat16
